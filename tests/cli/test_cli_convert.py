"""clapkit convert and clapkit inspect, on small files of each kind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

import clapkit as library
from clapkit.checkpoints.known import KNOWN
from clapkit.checkpoints.reading import read
from clapkit.text.tokenizers import write_byte_tokenizer

AUDIO = {
    "patch_embeds_hidden_size": 16,
    "hidden_size": 128,
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 2, 4, 8],
}
TEXT = {
    "vocab_size": 300,
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
        model = ClapModel(ClapConfig(audio_config=AUDIO, text_config=TEXT, projection_dim=32))
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if tensor.is_floating_point() and tensor.ndim > 1:  # or all its vectors would be alike
                    tensor.copy_(torch.randn(tensor.shape) / tensor[0].numel() ** 0.5)
                elif "batch_norm.running" in name:
                    tensor.fill_(-30.0 if name.endswith("mean") else 400.0)
        model.save_pretrained(folder)
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
    return clap.embed_audio([(sound, 48000)]), clap.embed_tokens([[0, 5, 9, 2]], [[1, 1, 1, 1]])


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


# ---- What is wrong with a file that loads ----------------------------------------------------------------------------


def damaged(port: Path, folder: Path, damage: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    """A copy of the folder, its tensors changed by `damage`."""
    shutil.copytree(port, folder)
    tensors = load_file(folder / "model.safetensors")
    damage(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def collapse(tensors: dict[str, torch.Tensor]) -> None:
    """As in a public port: whatever is asked, the language side says the same."""
    tensors["text_projection.linear2.weight"] *= 1e-4
    tensors["text_projection.linear2.bias"].fill_(1.0)


def blot(tensors: dict[str, torch.Tensor]) -> None:
    tensors["audio_projection.linear1.weight"][2, 3] = float("nan")


DAMAGES = [
    (collapse, "the text vectors are all alike: four unlike texts have cosines from 1.0000 to 1.0000"),
    (blot, "audio_head.linear1.weight holds numbers that are not finite"),
]


@pytest.mark.parametrize(("damage", "said"), DAMAGES)
def test_inspect_says_what_is_wrong_with_a_file(clapkit, port, tmp_path, damage, said):
    broken = damaged(port, tmp_path / "broken", damage)
    outcome = clapkit("inspect", broken)
    assert outcome.exit_code == 0, outcome.output
    line = next(line for line in outcome.stdout.splitlines() if "problem" in line)
    assert said in line
    assert json.loads(clapkit("inspect", broken, "--json").stdout)["problems"] == [said]


def test_inspect_of_a_sound_file_has_nothing_to_say(clapkit, port, laion):
    for path in (port, laion):
        facts = json.loads(clapkit("inspect", path, "--json").stdout)
        assert (facts["problems"], facts["warning"], facts["known_as"]) == ([], None, None)
        assert "problem" not in clapkit("inspect", path).stdout


@pytest.mark.parametrize(("damage", "said"), DAMAGES)
def test_convert_says_what_is_wrong_and_mends_nothing(clapkit, port, tmp_path, damage, said):
    broken = damaged(port, tmp_path / "broken", damage)
    outcome = clapkit("convert", broken, tmp_path / "native")
    assert outcome.exit_code == 0, outcome.output
    assert f"problem   {said}" in outcome.stderr
    written = json.loads(clapkit("inspect", tmp_path / "native", "--json").stdout)
    assert written["problems"] == [said]


def test_convert_of_a_sound_file_has_nothing_to_say(clapkit, port, tmp_path):
    outcome = clapkit("convert", port, tmp_path / "native")
    assert "problem" not in outcome.stderr and "warning" not in outcome.stderr


@pytest.fixture
def published(port, tmp_path) -> dict[str, str]:
    """The environment in which the port lies in the cache of the hub under the name of a file that has a warning."""
    known = KNOWN["hf-clap-music"]
    folder = tmp_path / "hub" / f"models--{known.repository.replace('/', '--')}"
    shutil.copytree(port, folder / "snapshots" / "0123abc")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123abc")
    return {"HF_HUB_CACHE": str(tmp_path / "hub")}


@pytest.mark.parametrize("name", ["hf-clap-music", "laion/larger_clap_music", "hf://laion/larger_clap_music"])
def test_what_is_known_about_a_published_file_is_said(clapkit, published, tmp_path, name):
    warning = KNOWN["hf-clap-music"].warning
    assert "almost alike" in warning
    outcome = clapkit("inspect", name, **published)
    assert outcome.exit_code == 0, outcome.output
    assert warning in outcome.stdout
    facts = json.loads(clapkit("inspect", name, "--json", **published).stdout)
    assert (facts["known_as"], facts["warning"], facts["problems"]) == ("hf-clap-music", warning, [])
    outcome = clapkit("convert", name, tmp_path / "native", **published)
    assert outcome.exit_code == 0, outcome.output
    assert f"warning   hf-clap-music: {warning}" in outcome.stderr


def test_the_place_in_the_cache_is_enough_to_know_a_file(clapkit, published):
    place = next(Path(published["HF_HUB_CACHE"]).rglob("model.safetensors")).parent
    assert json.loads(clapkit("inspect", place, "--json").stdout)["known_as"] == "hf-clap-music"


# ---- A checkpoint and a folder of one's own --------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["transformers", "laion"])
def test_a_checkpoint_is_tuned_on_a_folder_and_written_back(clapkit, port, laion, tmp_path, layout):
    source = tmp_path / ("given.pt" if layout == "laion" else "given")
    if layout == "laion":
        shutil.copy(laion, source)
        write_byte_tokenizer(tmp_path)
    else:
        write_byte_tokenizer(shutil.copytree(port, source))
    for label, pitch_hz in (("buzzer", 300), ("whistle", 2000)):
        (tmp_path / "sounds" / label).mkdir(parents=True)
        for number in range(5):
            wave = 0.3 * np.sin(2 * np.pi * (pitch_hz + 10 * number) * np.arange(8000) / 16000)
            soundfile.write(tmp_path / "sounds" / label / f"{number}.wav", wave.astype(np.float32), 16000)
    words = ("--data", tmp_path / "sounds", "--out", tmp_path / "run", "--scale", "tiny", "--set", "train.steps=2")
    outcome = clapkit("train", "finetune", "--from", source, *words)
    assert outcome.exit_code == 0, outcome.output
    told = json.loads((tmp_path / "run" / "finetune.json").read_bytes())
    assert told["sets"]["new"]["n"] == 2 and told["texts_cosine"] == pytest.approx(1.0, abs=1e-5)
    assert told["start"] == library.load(source).space_id != told["result"]
    back = tmp_path / ("tuned.pt" if layout == "laion" else "tuned")
    outcome = clapkit("convert", tmp_path / "run", back, "--to", layout)
    assert outcome.exit_code == 0, outcome.output
    given, tuned = read(source).tensors, read(back).tensors
    assert {name: tensor.shape for name, tensor in given.items()} == {name: t.shape for name, t in tuned.items()}
    for found, wanted in zip(embedded(back), embedded(tmp_path / "run"), strict=True):
        assert np.allclose(found, wanted, atol=1e-5)
