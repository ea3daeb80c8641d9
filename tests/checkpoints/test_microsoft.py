"""Microsoft CLAP files: features and towers of the reference at full size; everything else on small files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracle import Oracle, close_embeddings
from shrunk import shrunk

import clapkit
from clapkit.checkpoints.base import Foreign
from clapkit.checkpoints.families.microsoft import IMPORTERS
from clapkit.checkpoints.rules import to_ours, to_theirs
from clapkit.errors import CheckpointError, TextTowerError
from clapkit.spec import derive
from clapkit.towers.cnn14 import CNN14
from clapkit.towers.hf import skip_initialisation
from clapkit.towers.htsat import HTSAT

MSCLAP, CLAPCAP = IMPORTERS
CNN, HTSAT_GPT2, CAPTIONS = "msclap_2022_cnn14_bert", "msclap_2023_htsat_gpt2", "msclap_clapcap_2023"
AUDIO, TEXT = "audio_encoder.", "caption_encoder."


@pytest.fixture
def save(tmp_path):
    """Write tensors as the published files are wrapped; returns the path."""

    def write(tensors, name="weights.pth"):
        torch.save({"model": tensors, "epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / name)
        return tmp_path / name

    return write


def sound_side(oracle: Oracle):
    """The model of an oracle without its text side, which `test_load_parity` compares."""
    entries = oracle.layout["tensors"]
    oracle.layout["tensors"] = [entry for entry in entries if not entry["name"].startswith(TEXT)]
    text = {e["name"]: torch.empty(e["shape"], device="meta") for e in entries if e["name"].startswith(TEXT)}
    plan = MSCLAP.plan(Foreign({**oracle.tensors, **text}))
    with skip_initialisation():
        model = derive(plan.model, text=None, text_head=None).build().eval()
    ours = to_ours(oracle.tensors, plan.rules).ours
    ours |= {n: x for n, x in model.state_dict().items() if n.endswith("num_batches_tracked")}
    model.load_state_dict(ours, assign=True)
    return model


@torch.no_grad()
@pytest.mark.parametrize("name", [CNN, HTSAT_GPT2])
def test_features_and_tower_of_the_reference(shared_oracles, name):
    oracle = Oracle(shared_oracles / name)
    model = sound_side(oracle)
    window = round(model.windowing.window_s * 44100)
    clips = np.stack([np.resize(samples, window) for samples, _ in oracle.waves()])  # repeated and cut
    features = model.frontend(torch.from_numpy(clips))
    oracle.check(features.values[:, None], "log_mel", atol=0.1)
    summary = model.audio(features).summary_BD
    oracle.check(summary, "audio_tower", atol=1e-4 * max(1.0, float(summary.abs().max())))
    close_embeddings(summary.numpy(), oracle.expected("audio_tower"))
    embedding = model.audio_head(summary)
    oracle.check(embedding, "audio_embedding", atol=1e-4 * max(1.0, float(embedding.abs().max())))


@pytest.mark.parametrize(("name", "tower", "seconds"), [(CNN, CNN14, 5.0), (HTSAT_GPT2, HTSAT, 7.0)])
def test_sizes_are_read_from_the_shapes(shared_oracles, name, tower, seconds):
    plan = MSCLAP.plan(Foreign(shrunk(shared_oracles / name)))
    arguments = plan.model.arguments
    assert arguments["audio"].resolve() is tower and arguments["dimension"] == 128
    assert (arguments["windowing"].window_s, arguments["windowing"].fill) == (seconds, "repeat")
    if tower is CNN14:
        assert arguments["audio"].arguments["channels"] == (64, 16, 32, 64, 128, 256)
        text = arguments["text"].arguments
        assert (text["pooling"], text["max_tokens"], text["config"]["vocab_size"]) == ("cls", 64, 3815)
        assert plan.tokenizer == "bert-base-uncased"
    else:
        assert arguments["audio"].arguments["width"] == 12 and arguments["audio"].arguments["frames_in"] == 965
        text = arguments["text"].arguments
        assert (text["pooling"], text["pad_id"], text["suffix"]) == ("last_id", 0, " <|endoftext|>")
        assert (text["max_tokens"], text["config"]["n_layer"], text["config"]["n_embd"]) == (77, 12, 96)
        assert plan.tokenizer == "gpt2"


def test_bert_reads_its_hundred_tokens_and_no_more(shared_oracles):
    tensors = shrunk(shared_oracles / CNN)
    tensors[f"{TEXT}base.embeddings.position_embeddings.weight"] = torch.zeros(512, 96)
    assert MSCLAP.plan(Foreign(tensors)).model.arguments["text"].arguments["max_tokens"] == 100


def test_what_older_files_hold_beside_the_weights_is_accounted_for(shared_oracles, save):
    tensors = shrunk(shared_oracles / HTSAT_GPT2)
    extras = {
        f"{TEXT}base.h.0.attn.bias": torch.ones(1, 1, 8, 8),
        f"{TEXT}base.h.0.attn.masked_bias": torch.tensor(-1e4),
        f"{AUDIO}base.htsat.spectrogram_extractor.stft.conv_real.weight": torch.zeros(513, 1, 1024),
    }
    clap = clapkit.load(save({**tensors, **extras}))
    assert clap.family == "msclap" and set(extras) <= set(clap.report.computed)
    tagging = {f"{AUDIO}base.htsat.{part}.{p}" for part in ("tscam_conv", "head") for p in ("weight", "bias")}
    assert set(clap.report.dropped) == tagging
    bert = shrunk(shared_oracles / CNN) | {f"{TEXT}base.embeddings.position_ids": torch.arange(64)[None]}
    report = clapkit.load(save(bert)).report
    assert f"{TEXT}base.embeddings.position_ids" in report.computed
    assert {f"{TEXT}base.pooler.dense.weight", f"{AUDIO}base.fc_audioset.weight"} <= set(report.dropped)


def test_a_padding_id_inside_a_text_moves_the_place_that_is_read(shared_oracles, save):
    """'!' is id 0: as in the reference, the text vector then stands one place further to the left."""
    clap = clapkit.load(save(shrunk(shared_oracles / HTSAT_GPT2)))
    mask = np.array([[1, 1, 1, 1, 0]])
    found, same, other = (
        clap.embed_tokens(np.array([row]), mask) for row in ([7, 0, 9, 11, 0], [7, 0, 9, 13, 0], [7, 0, 8, 11, 0])
    )
    np.testing.assert_allclose(found, same, atol=1e-6)
    assert np.abs(found - other).max() > 1e-3
    assert any("'!'" in note for note in clap.report.notes)


def test_short_sound_is_repeated_and_cut(shared_oracles, save):
    clap = clapkit.load(save(shrunk(shared_oracles / CNN, seed=1)))
    sound = np.random.default_rng(0).standard_normal(50_000).astype(np.float32) / 10
    whole = np.tile(sound, 5)[: 5 * 44100]
    np.testing.assert_allclose(clap.embed_audio([(sound, 44100)]), clap.embed_audio([(whole, 44100)]), atol=1e-6)


def test_towers_may_be_combined_otherwise(shared_oracles, save):
    """A CNN14 beside a GPT-2 was never published, but has one reading."""
    sound = shrunk(shared_oracles / CNN, only=(AUDIO, "logit_scale"))
    clap = clapkit.load(save({**sound, **shrunk(shared_oracles / HTSAT_GPT2, only=(TEXT,))}))
    assert clap.family == "msclap" and clap.embed_tokens(np.array([[3, 4, 5]])).shape == (1, 128)


@pytest.mark.parametrize("name", [CNN, HTSAT_GPT2, CAPTIONS])
def test_there_and_back_is_bit_identical(shared_oracles, name):
    tensors = shrunk(shared_oracles / name)
    plan = (CLAPCAP if name == CAPTIONS else MSCLAP).plan(Foreign(tensors))
    mapped = to_ours(tensors, plan.rules)
    back = to_theirs(mapped.ours, plan.rules) | mapped.aside
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[key], tensors[key]) for key in tensors)


def test_clapcap_gives_its_sound_side_and_says_what_else_it_holds(shared_oracles, save):
    tensors = shrunk(shared_oracles / CAPTIONS)
    clap = clapkit.load(save(tensors))
    assert clap.family == "clapcap" and clap.dimension == 128
    writer = {name for name in tensors if name.startswith(("gpt.", "clap_project."))}
    assert writer <= set(clap.report.dropped) and all(clap.report.dropped[name] for name in writer)
    assert len(tensors) == clap.report.mapped + len(clap.report.dropped) + len(clap.report.computed)
    sound = [(np.random.default_rng(0).standard_normal(44100).astype(np.float32) / 10, 44100)]
    assert clap.embed_audio(sound).shape == (1, 128)
    with pytest.raises(TextTowerError, match=r"text=<path of CLAP_weights_2023.pth>"):
        clap.embed_text(["a dog"])


def test_clapcap_takes_its_text_side_from_the_other_file(shared_oracles, save):
    other = save(shrunk(shared_oracles / HTSAT_GPT2), "CLAP_weights_2023.pth")
    clap = clapkit.load(save(shrunk(shared_oracles / CAPTIONS)), text=other)
    ids = np.array([[3, 4, 5]])
    np.testing.assert_allclose(clap.embed_tokens(ids), clapkit.load(other).embed_tokens(ids), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        (CNN, f"{AUDIO}base.conv_block3.conv1.weight"),
        (CNN, f"{AUDIO}base.fc1.weight"),
        (CNN, f"{TEXT}base.embeddings.position_embeddings.weight"),
        (HTSAT_GPT2, f"{TEXT}base.wpe.weight"),
        (HTSAT_GPT2, f"{AUDIO}projection.linear1.weight"),
        (HTSAT_GPT2, f"{AUDIO}base.htsat.bn0.weight"),
    ],
)
def test_a_lost_tensor_is_named(shared_oracles, save, name, lost):
    tensors = shrunk(shared_oracles / name)
    del tensors[lost]
    known = {f"{AUDIO}base.conv_block3.conv1.weight": "conv_block3"}.get(lost, lost)
    with pytest.raises(CheckpointError, match=known.replace(".", r"\.")):
        clapkit.load(save(tensors))


def test_a_logit_scale_that_is_missing_is_no_small_matter(shared_oracles, save):
    tensors = shrunk(shared_oracles / CNN)
    del tensors["logit_scale"]
    with pytest.raises(CheckpointError, match="logit_scale"):
        clapkit.load(save(tensors))
