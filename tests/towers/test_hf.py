"""The transformers text tower against sentence-transformers, against transformers itself, and alone against a batch."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from clapkit.errors import MissingExtraError, TextTowerError
from clapkit.spec import derive, from_json, to_json
from clapkit.text.locate import find_text_model
from clapkit.text.tokenizers import TextTokenizer, write_byte_tokenizer
from clapkit.towers.hf import TransformersText, read_config, skip_initialisation, tiny

MIXED_TEXTS = [
    "a dog barks",
    "",
    "Rain!",
    "this is the sound of church bells",
    "Ünïcode accents: café, naïve",
    "雨の音がする",
    "1234567890 9.5 kHz",
    "UPPER CASE and lower case",
    "a very long description of wind in the trees, " * 30,
    "tabs\tand\nlines",
    "x",
    "an emoji 🎺 in the text",
    "door_wood_knock",
    "a man speaking German in a happy voice",
    "der Hund bellt",
    "crackling fire followed by footsteps, then silence",
    "¿qué es eso?",
    "…",
    "glass breaking " * 12,
    "a phone rings twice while somebody types on a keyboard",
]


@pytest.fixture(scope="module")
def minilm():
    try:
        return find_text_model()
    except TextTowerError:
        pytest.skip("no text model on this machine")


@pytest.fixture
def tiny_folder(tmp_path):
    """A model folder such as transformers writes: pooler and all."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(5)
    config = {k: v for k, v in tiny.arguments["config"].items() if k != "model_type"}
    BertModel(BertConfig(**config)).save_pretrained(tmp_path)
    write_byte_tokenizer(tmp_path)
    return tmp_path


def embed(tower, folder, texts):
    ids_BL, mask_BL = TextTokenizer(folder).encode(texts)
    with torch.inference_mode():
        return tower(torch.from_numpy(ids_BL), torch.from_numpy(mask_BL))


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors), folder / "model.safetensors")


def test_minilm_equals_sentence_transformers(minilm):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    reference = sentence_transformers.SentenceTransformer(str(minilm), device="cpu")
    reference.max_seq_length = 128
    expected = reference.encode(MIXED_TEXTS, normalize_embeddings=True)
    summary_BD = embed(TransformersText.from_folder(minilm), minilm, MIXED_TEXTS).summary_BD
    found = torch.nn.functional.normalize(summary_BD, dim=-1).numpy()
    assert len(MIXED_TEXTS) == 20 and found.shape == (20, 384)
    assert np.abs(found - expected).max() < 1e-5
    assert (found * expected).sum(1).min() >= 0.999999


def test_no_text_depends_on_its_batch_mates(minilm):
    tower = TransformersText.from_folder(minilm)
    together = embed(tower, minilm, MIXED_TEXTS).summary_BD
    for text, expected_D in zip(MIXED_TEXTS, together, strict=True):
        assert (embed(tower, minilm, [text]).summary_BD[0] - expected_D).abs().max() <= 1e-5


@pytest.mark.parametrize("pooling", ["mean", "cls", "last", "pooler"])
def test_poolings_equal_a_loop_over_transformers_without_padding(tiny_folder, pooling):
    from transformers import AutoModel

    reference = AutoModel.from_pretrained(tiny_folder).eval()
    tower = TransformersText.from_folder(tiny_folder, pooling=pooling)
    texts = ["dog", "a longer text", ""]
    out = embed(tower, tiny_folder, texts)
    assert out.frames_BTD.shape == (3, 15, 32) and out.mask_BT.sum(1).tolist() == [5, 15, 2] and tower.width == 32
    for index, text in enumerate(texts):
        ids_1L, _ = TextTokenizer(tiny_folder).encode([text])
        with torch.inference_mode():
            one = reference(input_ids=torch.from_numpy(ids_1L))
        frames_TD = one.last_hidden_state[0]
        by_hand = {
            "mean": frames_TD.mean(0),
            "cls": frames_TD[0],
            "last": frames_TD[-1],
            "pooler": one.pooler_output[0],
        }
        torch.testing.assert_close(out.summary_BD[index], by_hand[pooling], atol=1e-6, rtol=0)
        torch.testing.assert_close(out.frames_BTD[index, : len(frames_TD)], frames_TD, atol=1e-6, rtol=0)


def test_a_decoder_model_is_read_by_its_last_token():
    """GPT-2 sees no padding to its right: the last token is the same in any batch."""
    config = {"model_type": "gpt2", "vocab_size": 259, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64}
    tower = TransformersText(config, pooling="last", max_tokens=64).eval()
    ids_BL = torch.tensor([[5, 6, 7, 0], [8, 9, 10, 11]])
    batch = tower(ids_BL, torch.tensor([[True, True, True, False], [True] * 4])).summary_BD
    alone = tower(ids_BL[:1, :3], torch.ones(1, 3, dtype=torch.bool)).summary_BD
    torch.testing.assert_close(batch[:1], alone, atol=1e-6, rtol=0)
    with pytest.raises(TextTowerError, match="type 'gpt2' has no pooler"):
        TransformersText(config, pooling="pooler", max_tokens=64)(ids_BL, torch.ones_like(ids_BL).bool())


def test_the_last_id_is_counted_by_the_ids_and_not_by_the_mask():
    """As in MS-CLAP 2023: a padding id inside a text moves the place that is read one to the left."""
    config = {"model_type": "gpt2", "vocab_size": 259, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64}
    tower = TransformersText(config, pooling="last_id", max_tokens=64, pad_id=0).eval()
    ids_BL = torch.tensor([[5, 6, 7, 0, 0], [8, 0, 10, 11, 0]])
    mask_BL = torch.tensor([[True] * 3 + [False] * 2, [True] * 4 + [False]])
    out = tower(ids_BL, mask_BL)
    assert torch.equal(out.summary_BD, out.frames_BTD[torch.arange(2), torch.tensor([2, 2])])
    assert torch.equal(tower(ids_BL, torch.ones_like(mask_BL)).summary_BD, out.summary_BD)
    with pytest.raises(TextTowerError, match=r"'last_id' counts the ids.*give pad_id"):
        TransformersText(config, pooling="last_id", max_tokens=64)


def test_younger_options_are_written_only_where_they_are_used():
    plain = derive(tiny, max_tokens=64).build()
    assert set(plain.spec().arguments) == {"config", "pooling", "max_tokens"}
    quirk = derive(tiny, pooling="last_id", pad_id=0, suffix=" end").build()
    again = from_json(json.loads(json.dumps(to_json(quirk.spec())))).build()
    assert (again.pooling, again.pad_id, again.suffix) == ("last_id", 0, " end")


def test_the_spec_written_as_json_rebuilds_the_tower_without_its_folder(tiny_folder):
    tower = TransformersText.from_folder(tiny_folder)
    expected = embed(tower, tiny_folder, MIXED_TEXTS[:8]).summary_BD
    written = json.dumps(to_json(tower.spec()))
    assert str(tiny_folder) not in written
    again = from_json(json.loads(written)).build().eval()
    again.load_state_dict(tower.state_dict())
    assert torch.equal(embed(again, tiny_folder, MIXED_TEXTS[:8]).summary_BD, expected)
    assert again.spec() == from_json(json.loads(json.dumps(to_json(again.spec()))))


def test_what_is_left_out_of_a_checkpoint_has_a_reason(tiny_folder):
    rewrite(
        tiny_folder,
        lambda tensors: {
            **{f"bert.{k.replace('LayerNorm.weight', 'LayerNorm.gamma')}": v for k, v in tensors.items()},
            "bert.embeddings.position_ids": torch.arange(128)[None],
            "cls.predictions.bias": torch.zeros(259),
        },
    )
    tower = TransformersText.from_folder(tiny_folder)
    pooler = {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    assert set(tower.dropped) == {"bert.embeddings.position_ids", "cls.predictions.bias", *pooler}
    assert all(tower.dropped.values()) and not any("pooler" in key for key in tower.state_dict())
    assert set(TransformersText.from_folder(tiny_folder, pooling="pooler").dropped) == set(tower.dropped) - pooler


def test_every_other_difference_between_checkpoint_and_architecture_is_told_at_once(tiny_folder):
    gone, short = "encoder.layer.1.output.dense.bias", "encoder.layer.0.output.dense.bias"

    def damage(tensors):
        kept = {k: v for k, v in tensors.items() if k != gone}
        return {**kept, "encoder.layer.7.odd": torch.zeros(1), short: torch.zeros(3)}

    rewrite(tiny_folder, damage)
    with pytest.raises(TextTowerError) as caught:
        TransformersText.from_folder(tiny_folder)
    assert f"{gone} is missing" in str(caught.value) and "encoder.layer.7.odd has no place" in str(caught.value)
    assert f"{short} is (3,), expected (32,)" in str(caught.value)


def test_unreadable_folders_are_named(tiny_folder, tmp_path):
    (tiny_folder / "model.safetensors").write_bytes(b"not a header")
    with pytest.raises(TextTowerError, match=r"model\.safetensors cannot be read"):
        TransformersText.from_folder(tiny_folder)
    (tiny_folder / "config.json").write_text("[]")
    with pytest.raises(TextTowerError, match="holds list, expected an object"):
        TransformersText.from_folder(tiny_folder)
    with pytest.raises(TextTowerError, match=r"config\.json cannot be read"):
        read_config(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        ({"model_type": "brt"}, {}, "of 'brt'"),
        ({"model_type": None}, {}, "names its 'model_type'"),
        ({"model_type": "t5"}, {}, "'t5' is an encoder with a decoder"),
        ({"num_attention_heads": 5}, {}, "of 'bert'"),
        ({}, {"pooling": "maen"}, "no pooling 'maen'; did you mean 'mean'"),
        ({}, {"max_tokens": 129}, "max_tokens is 129, but the model has positions for 1 to 128"),
    ],
)
def test_configurations_that_fit_nothing_are_named(change, more, message):
    with pytest.raises(TextTowerError, match=message):
        TransformersText({**tiny.arguments["config"], **change}, **more)


def test_texts_longer_than_the_tower_reads_are_refused():
    ids_BL = torch.zeros(1, 9, dtype=torch.long)
    with pytest.raises(TextTowerError, match="9 tokens long, at most 8"):
        TransformersText(tiny.arguments["config"], max_tokens=8)(ids_BL, ids_BL.bool())


def test_a_configuration_cannot_bring_code_or_kernels_or_another_precision():
    foreign = {
        "auto_map": {"AutoModel": "somewhere/else--code.Model"},
        "attn_implementation": "somewhere/kernel",
        "torch_dtype": "float16",
        "quantization_config": {"quant_method": "gptq"},
    }
    tower = TransformersText({**tiny.arguments["config"], **foreign})
    assert tower.config == tiny.arguments["config"]
    assert {p.dtype for p in tower.parameters()} == {torch.float32}


def test_skipped_initialisation_leaves_parameters_alone_and_buffers_made():
    ordinary = tiny.build()
    before = torch.get_rng_state()
    with skip_initialisation():
        skipped = tiny.build()
    assert torch.equal(torch.get_rng_state(), before)  # nothing was drawn
    buffers = dict(ordinary.named_buffers())
    assert buffers and all(torch.equal(b, buffers[name]) for name, b in skipped.named_buffers())
    skipped.load_state_dict(ordinary.state_dict())
    assert all(p.requires_grad for p in skipped.parameters())
    assert not torch.equal(
        tiny.build().encoder.embeddings.word_embeddings.weight, skipped.encoder.embeddings.word_embeddings.weight
    )


def test_the_library_keeps_its_own_logging_and_says_nothing(tiny_folder, capfd):
    from transformers.utils import logging as their_logging

    before = their_logging.get_verbosity(), their_logging.is_progress_bar_enabled(), logging.getLogger().level
    TransformersText.from_folder(tiny_folder)
    assert before == (their_logging.get_verbosity(), their_logging.is_progress_bar_enabled(), logging.getLogger().level)
    assert capfd.readouterr() == ("", "")


def test_without_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"clapkit\[torch\]"):
        tiny.build()


def test_gradients_reach_every_weight():
    torch.manual_seed(0)
    tower = tiny.build()
    ids_BL = torch.randint(0, 259, (3, 20))
    tower(ids_BL, torch.ones_like(ids_BL).bool()).summary_BD.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in tower.parameters())
