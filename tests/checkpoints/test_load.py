"""From a foreign file to a model in use: recognition, reports, tokens, tokenizers, a language side from elsewhere."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import clapkit
from clapkit.checkpoints.load import read_model
from clapkit.checkpoints.write import layouts, write_model
from clapkit.errors import CheckpointError, ClapkitError, ModelError, TextTowerError
from clapkit.text.tokenizers import write_byte_tokenizer

IDS = np.array([[0, 40, 41, 2, 1, 1], [0, 99, 2, 1, 1, 1]])


def sound(seconds: float, rate_hz: int = 48000, seed: int = 0) -> tuple[np.ndarray, int]:
    return (0.1 * np.random.default_rng(seed).standard_normal(round(seconds * rate_hz))).astype(np.float32), rate_hz


@pytest.fixture
def folder(small_clap, tmp_path):
    """A copy to be damaged."""
    return shutil.copytree(small_clap, tmp_path / "clap")


@pytest.fixture(scope="module")
def clap(small_clap):
    return clapkit.load(small_clap)


def test_a_foreign_model_is_used_like_ours(clap):
    assert clap.family == "transformers" and clap.dimension == 32
    audio = clap.embed_audio([sound(0.7), sound(12.5, seed=1)])
    np.testing.assert_allclose(np.linalg.norm(audio, axis=1), 1.0, atol=1e-6)
    assert clap.space_id.startswith("space-") and clap.space_id in clap.pipeline_id


def test_the_report_says_what_was_done(clap):
    text = str(clap.report)
    assert "transformers" in text and "mapped" in text and "roberta-base" in text
    assert all(reason for reason in {**clap.report.dropped, **clap.report.computed}.values())


def test_token_ids_need_no_tokenizer(clap):
    vectors = clap.embed_tokens(IDS)
    np.testing.assert_allclose(vectors, clap.embed_tokens(IDS, IDS != 1), atol=1e-7)
    shorter = clap.embed_tokens(IDS[1:, :3])
    np.testing.assert_allclose(vectors[1:], shorter, atol=1e-5)
    assert np.abs(vectors[0] - vectors[1]).max() > 0.01


@pytest.mark.parametrize(
    ("ids", "mask", "told"),
    [
        ([1, 2], None, r"integers \[B, L\].*\[2\]"),
        ([[0.5, 1.0]], None, "float64"),
        (np.zeros((0, 4), np.int64), None, r"\[0, 4\]"),
        ([[0, 2]], [[1]], r"\[1, 1\].*\[1, 2\]"),
        ([[0, 300]], None, "ids from 0 to 300: this model knows those from 0 to 299"),
        ([[-1, 5]], None, "ids from -1 to 5"),
        ([[0, 2**40]], None, "ids from 0 to 1099511627776"),
    ],
)
def test_tokens_that_cannot_be_are_refused(clap, ids, mask, told):
    with pytest.raises(ClapkitError, match=told):
        clap.embed_tokens(ids, mask)


def test_a_missing_tokenizer_is_named_and_sound_still_works(folder):
    clap = clapkit.load(folder)
    with pytest.raises(TextTowerError, match=r"roberta-base(.|\n)*HF_HUB_OFFLINE(.|\n)*tokenizer\.json beside"):
        clap.embed_text(["a dog"])
    assert clap.embed_audio([sound(0.5)]).shape == (1, 32)


def test_a_tokenizer_beside_the_checkpoint_is_used(folder):
    write_byte_tokenizer(folder)
    clap = clapkit.load(folder)
    assert clap.embed_text(["a dog barks", "rain"]).shape == (2, 32)
    np.testing.assert_allclose(clap.embed_text(["rain"]), clap.embed_text(["a dog barks", "rain"])[1:], atol=1e-5)


def test_saved_as_ours_it_is_the_same_space(clap, tmp_path):
    space = clap.save(tmp_path / "ours")
    again = clapkit.load(tmp_path / "ours")
    assert again.space_id == space == clap.space_id
    assert again.family == "transformers" and again.report == clap.report
    np.testing.assert_array_equal(again.embed_tokens(IDS), clap.embed_tokens(IDS))
    np.testing.assert_allclose(again.embed_audio([sound(1.0)]), clap.embed_audio([sound(1.0)]), atol=1e-6)


@pytest.mark.parametrize("layout", ["transformers", "laion"])
def test_there_and_back_is_the_same_bit_for_bit(small_clap, tmp_path, layout):
    """Through the native folder, in both directions, with everything the file held."""
    loaded = read_model(small_clap)
    first = write_model(loaded, tmp_path / "first", to=layout)
    native = write_model(read_model(first), tmp_path / "native")
    second = write_model(read_model(native), tmp_path / "second", to=layout)
    if layout == "transformers":
        one, two = (load_file(path / "model.safetensors") for path in (first, second))
        assert (first / "config.json").read_bytes() == (second / "config.json").read_bytes()
    else:
        one, two = (torch.load(path, weights_only=True)["state_dict"] for path in (first, second))
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, read_model(native).model.state_dict()[name]), name


def test_what_the_reference_computed_comes_back_in_its_own_last_bits(small_clap, tmp_path):
    """Kernels of another library differ in rounding; a tensor that says something else is not written back."""
    file = write_model(read_model(small_clap), tmp_path / "first.pt", to="laion")
    state = torch.load(file, weights_only=True)["state_dict"]
    stft = "module.audio_branch.spectrogram_extractor.stft.conv_"
    state[f"{stft}real.weight"] = torch.nextafter(state[f"{stft}real.weight"], torch.tensor(1.0))
    imaginary = state[f"{stft}imag.weight"].clone()
    state[f"{stft}imag.weight"] = torch.zeros_like(imaginary)
    torch.save({"state_dict": state}, tmp_path / "other.pt")
    native = write_model(read_model(tmp_path / "other.pt"), tmp_path / "native")
    back = torch.load(write_model(read_model(native), tmp_path / "back.pt", to="laion"), weights_only=True)
    state[f"{stft}imag.weight"] = imaginary
    assert back["state_dict"].keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in back["state_dict"].items())


def test_a_converted_model_gives_the_same_vectors(small_clap, clap, tmp_path):
    write_model(read_model(small_clap), tmp_path / "as.pt", to="laion")
    other = clapkit.load(tmp_path / "as.pt")
    assert other.family == "laion"
    np.testing.assert_allclose(other.embed_tokens(IDS), clap.embed_tokens(IDS), atol=1e-6)
    cosine = (other.embed_audio([sound(3.0)]) * clap.embed_audio([sound(3.0)])).sum()
    assert cosine > 0.9999, "LAION rounds sound to 16 bits, the port does not"


def test_writing_refuses_what_cannot_be(small_clap, tmp_path):
    loaded = read_model(small_clap)
    with pytest.raises(CheckpointError, match="'onnx'"):
        write_model(loaded, tmp_path / "x", to="onnx")
    with pytest.raises(ModelError, match="exists already"):
        write_model(loaded, small_clap)
    assert {"native", "transformers", "laion"} <= set(layouts())


# ---- files that are not whole ----------------------------------------------------------------------------------------


def changed(folder, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("audio_projection.linear1.weight", r"audio_projection\.linear1\.weight"),  # by which it is recognised
        ("audio_projection.linear2.bias", r"audio_head\.linear2\.bias"),
        ("audio_model.audio_encoder.layers.1.blocks.1.attention.self.key.weight", r"attention\.self\.key\.weight"),
    ],
)
def test_a_missing_tensor_is_named(folder, name, ours):
    changed(folder, lambda t: t.pop(name))
    with pytest.raises(CheckpointError, match=rf"looks like transformers(.|\n)*missing.*{ours}"):
        clapkit.load(folder)


def test_an_unknown_tensor_is_named(folder):
    changed(folder, lambda t: t.update({"audio_model.surprise": torch.zeros(2, 3)}))
    with pytest.raises(CheckpointError, match=r"no place for: audio_model\.surprise \[2, 3\]"):
        clapkit.load(folder)


def test_a_tensor_of_another_shape_is_named(folder):
    name = "audio_model.audio_encoder.norm.weight"
    changed(folder, lambda t: t.update({name: torch.zeros(7)}))
    with pytest.raises(CheckpointError, match=r"norm\.weight|\(7,\)|\[7\]"):
        clapkit.load(folder)


def test_a_file_of_nobody_is_described(tmp_path):
    save_file({"encoder.weight": torch.zeros(2, 2)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"encoder\.weight \[2, 2\](.|\n)*Known are(.|\n)*laion"):
        clapkit.load(tmp_path / "x.safetensors")


def test_a_native_folder_describes_itself(clap, tmp_path):
    clap.save(tmp_path / "ours")
    with pytest.raises(ModelError, match="variant='tiny'"):
        clapkit.load(tmp_path / "ours", variant="tiny")


# ---- a language side from elsewhere ----------------------------------------------------------------------------------


def without_text(loaded, folder):
    """A native folder of the sound side alone."""
    from dataclasses import replace

    from clapkit import native
    from clapkit.spec import derive

    loaded.model.text = loaded.model.text_head = None
    whole = derive(loaded.spec, text=None, text_head=None, text_missing="this file has no texts: give text=")
    native.save(loaded.model, whole, folder, tokenizer=None, report=replace(loaded.report, tokenizer=None))
    return folder


def test_a_language_side_from_another_checkpoint(small_clap, clap, tmp_path):
    alone = without_text(read_model(small_clap), tmp_path / "alone")
    deaf = clapkit.load(alone)
    for texts in (lambda: deaf.embed_text(["x"]), lambda: deaf.embed_tokens(IDS)):
        with pytest.raises(TextTowerError, match="no texts: give text="):
            texts()
    whole = clapkit.load(alone, text=small_clap)
    np.testing.assert_array_equal(whole.embed_tokens(IDS), clap.embed_tokens(IDS))
    np.testing.assert_allclose(whole.embed_audio([sound(1.0)]), clap.embed_audio([sound(1.0)]), atol=1e-6)
    assert "language side is that of" in str(whole.report)
    whole.save(tmp_path / "whole")
    np.testing.assert_array_equal(clapkit.load(tmp_path / "whole").embed_tokens(IDS), clap.embed_tokens(IDS))


def test_a_language_side_that_does_not_belong_is_refused(small_clap, tiny_text_folder, tmp_path):
    alone = without_text(read_model(small_clap), tmp_path / "alone")
    with pytest.raises(CheckpointError, match="no language side either: this file has no texts"):
        clapkit.load(alone, text=alone)
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="no checkpoint that is known"):
        clapkit.load(alone, text=tmp_path / "x.safetensors")


def test_the_folder_of_a_text_encoder_is_a_language_side(small_clap, tiny_text_folder, tmp_path):
    """tiny_text_folder has the width of this space, as a GTE folder has for M2D-CLAP."""
    whole = clapkit.load(without_text(read_model(small_clap), tmp_path / "alone"), text=tiny_text_folder)
    assert whole.embed_text(["a dog", "rain"]).shape == (2, 32)


def test_the_padding_id_of_the_file_outlives_another_tokenizer(small_clap, tmp_path):
    """A tokenizer that pads with another id says nothing about rows of ids that come without a mask."""
    given = shutil.copytree(small_clap, tmp_path / "given")
    write_byte_tokenizer(given)
    clap = clapkit.load(given)
    ids = [[0, 17, 42, 2, 1, 1], [0, 5, 6, 7, 8, 2]]
    clap.save(tmp_path / "ours")
    again = clapkit.load(tmp_path / "ours")
    np.testing.assert_array_equal(again.embed_tokens(ids), clap.embed_tokens(ids))
    assert again._text_tokenizer().pad_id != clap.loaded.pad_id, "or this test shows nothing"
