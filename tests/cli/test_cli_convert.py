"""clapkit convert and clapkit inspect, on small files of each kind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import clapkit as library
from clapkit.checkpoints.reading import read

AUDIO = {
    "patch_embeds_hidden_size": 16,
    "hidden_size": 128,
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 2, 4, 8],
}
TEXT = {
    "vocab_size": 120,
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 64,
    "max_position_embeddings": 514,
    "pad_token_id": 1,
    "layer_norm_eps": 1e-5,
}


@pytest.fixture(scope="module")
def port(tmp_path_factory) -> Path:
    """The folder of a small ClapModel of transformers, with random weights."""
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

    folder = tmp_path_factory.mktemp("port")
    with torch.random.fork_rng():
        torch.manual_seed(2)
        ClapModel(ClapConfig(audio_config=AUDIO, text_config=TEXT, projection_dim=32)).save_pretrained(folder)
    ClapFeatureExtractor(frequency_min=50, frequency_max=14000, truncation="rand_trunc").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def laion(clapkit, port, tmp_path_factory) -> Path:
    """The same model as a .pt of LAION, made by the command."""
    path = tmp_path_factory.mktemp("laion") / "model.pt"
    outcome = clapkit("convert", port, path, "--to", "laion")
    assert outcome.exit_code == 0, outcome.output
    return path


def embedded(path: Path) -> tuple[np.ndarray, np.ndarray]:
    clap = library.load(path, device="cpu")
    sound = np.random.default_rng(4).uniform(-0.9, 0.9, 48000).astype(np.float32)
    return clap.embed_audio([(sound, 48000)]), clap.embed_tokens(np.array([[0, 5, 9, 2]]))


def test_the_model_stays_the_same_all_the_way_round(clapkit, port, laion, tmp_path):
    sound, text = embedded(port)
    rounded = embedded(laion)[0]  # this layout rounds the samples to 16 bits
    wanted = {"native": (rounded, text), "transformers": (sound, text), "laion": (rounded, text)}
    assert np.allclose(rounded, sound, atol=0.01)
    ways = [(laion, "native"), (tmp_path / "native", "transformers"), (tmp_path / "transformers", "laion")]
    for source, layout in ways:
        outcome = clapkit("convert", source, tmp_path / layout, "--to", layout)
        assert outcome.exit_code == 0, outcome.output
        assert f"written as {layout}" in outcome.stderr
        for found, expected in zip(embedded(tmp_path / layout), wanted[layout], strict=True):
            assert np.allclose(found, expected, atol=1e-5)
    first, last = read(laion).tensors, read(tmp_path / "laion").tensors
    assert first.keys() == last.keys()
    assert all(torch.equal(first[name], last[name]) for name in first)


def test_what_happened_is_said(clapkit, port, tmp_path):
    outcome = clapkit("convert", port, tmp_path / "native")
    assert "family    transformers" in outcome.stderr and "mapped" in outcome.stderr
    assert outcome.stdout == ""
    card = (tmp_path / "native" / "README.md").read_text(encoding="utf-8")
    assert "transformers" in card and "48000 Hz" in card


def test_what_cannot_be_converted(clapkit, port, tmp_path):
    (tmp_path / "there").mkdir()
    outcome = clapkit("convert", port, tmp_path / "there")
    assert outcome.exit_code == 2 and "there' exists already" in outcome.stderr
    outcome = clapkit("convert", port, tmp_path / "new", "--to", "laoin")
    assert outcome.exit_code == 2 and "did you mean 'laion'?" in outcome.stderr
    outcome = clapkit("convert", tmp_path / "absent.pt", tmp_path / "new")
    assert outcome.exit_code == 2 and "absent.pt" in outcome.stderr
    (tmp_path / "page.pt").write_text("<!DOCTYPE html><html>")
    outcome = clapkit("convert", tmp_path / "page.pt", tmp_path / "new")
    assert outcome.exit_code == 2 and "a web page" in outcome.stderr
    torch.save({"layer.weight": torch.ones(3)}, tmp_path / "other.pt")
    outcome = clapkit("convert", tmp_path / "other.pt", tmp_path / "new")
    assert outcome.exit_code == 2 and "layer.weight" in outcome.stderr
    assert not (tmp_path / "new").exists()


def test_inspect_tells_what_a_file_is(clapkit, laion):
    outcome = clapkit("inspect", laion)
    assert outcome.exit_code == 0, outcome.output
    text = " ".join(outcome.stdout.split())
    for word in (
        "laion",
        "CC0 1.0",
        "32 dimensions",
        "48000 Hz mono, rounded to 16 bits; 64 mel bands from 50 to 14000",
    ):
        assert word in text, outcome.stdout
    for word in (
        "10 s; shorter sound is repeated whole",
        "tokenizer roberta-base is not here",
        "tscam_conv",
        "not taken over",
    ):
        assert word in text, outcome.stdout
    assert len(outcome.stdout.splitlines()) < 80  # a kind of tensor a line, not a tensor a line


def test_inspect_as_json_counts_what_the_model_has(clapkit, laion, port, tmp_path):
    outcome = clapkit("inspect", laion, "--json")
    facts = json.loads(outcome.stdout)
    model = library.load(laion, device="cpu").model
    assert facts["family"] == "laion" and facts["path"] == str(laion)
    assert facts["parameters"]["audio tower"] == sum(p.numel() for p in model.audio.parameters())
    assert sum(facts["parameters"].values()) == sum(p.numel() for p in model.parameters())
    assert facts["front_end"]["rate_hz"] == 48000 and facts["window"]["window_s"] == 10.0
    assert facts["tokenizer"] == "roberta-base" and facts["tokenizer_found"] is False
    stored = read(laion).tensors
    assert all(entry["reason"] and entry["count"] >= 1 for entry in facts["dropped"] + facts["computed"])
    left = sum(entry["count"] for entry in facts["dropped"] + facts["computed"])
    assert 0 < left < len(stored)


def test_inspect_of_a_model_made_here(clapkit, tiny_run):
    outcome = clapkit("inspect", tiny_run.path, "--json")
    assert outcome.exit_code == 0, outcome.output
    facts = json.loads(outcome.stdout)
    assert facts["family"] == "clapkit" and facts["tokenizer_found"] is True
    assert facts["towers"]["audio"] == "ResNetTower" and facts["dropped"] == []


def test_inspect_refuses_what_would_run_code(clapkit, tmp_path, monkeypatch):
    import os
    import pickle

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    (tmp_path / "model.pt").write_bytes(pickle.dumps({"state_dict": Evil()}))
    outcome = clapkit("inspect", tmp_path / "model.pt")
    assert outcome.exit_code == 2 and f"{os.name}.mkdir" in outcome.stderr
    assert not (tmp_path / "pwned").exists()
