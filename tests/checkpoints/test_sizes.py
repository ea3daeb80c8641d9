"""Settings that ask for far more than the file beside them holds: refused before the memory or the time is spent."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from shrunk import shrunk
from torch import nn

import clapkit
from clapkit.checkpoints.base import Foreign
from clapkit.checkpoints.load import read_model
from clapkit.checkpoints.write import write_model
from clapkit.errors import CheckpointError, ClapkitError, ModelError, SpecError
from clapkit.spec import spec
from clapkit.towers.hf import TransformersText, build_to_fill
from clapkit.towers.htsat import HTSAT

resource = pytest.importorskip("resource")


@pytest.fixture(scope="module")
def ours(small_clap, tmp_path_factory) -> Path:
    """A model folder of ours."""
    return write_model(read_model(small_clap), tmp_path_factory.mktemp("ours") / "model")


def edited(folder: Path, copy: Path, file: str, **changes: Any) -> Path:
    """A copy of the folder with entries of a configuration replaced; "a__b" is the entry b of a."""
    shutil.copytree(folder, copy)
    config = json.loads((copy / file).read_text())
    for name, value in changes.items():
        *outer, last = name.split("__")
        inner = config
        for part in outer:
            inner = inner[part]
        inner[last] = value
    (copy / file).write_text(json.dumps(config))
    return copy


def refused(path: Path, told: str, kind: type[ClapkitError] = ModelError) -> None:
    """`clapkit.load` refuses in seconds and within 200 MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    with pytest.raises(kind, match=told):
        clapkit.load(path)
    assert time.process_time() - began < 20
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    assert grown / (2**20 if sys.platform == "darwin" else 2**10) < 200


MODEL: list[tuple[dict[str, Any], str]] = [
    ({"audio__width": 10**6}, "more than [0-9]+ parameters, and the file holds"),
    ({"audio__depths": [100_000, 2, 1, 1]}, "more than [0-9]+ layers, and the file holds"),
    ({"audio__image": 2**16}, "more than [0-9]+ computed numbers, and the file holds"),
    ({"audio__window": 256, "audio__image": 4096}, "computed numbers"),
    ({"audio__expansion": 1e9}, "parameters"),
    ({"audio__frames_in": 10**12}, "frames_in=1000000000000, expected 1 to 64 times the 1024"),
    ({"audio__image": 0}, "all sizes are at least 1, but .*image=0"),
    ({"dimension": 10**12}, "parameters"),
    ({"frontend__n_fft": 2**31, "frontend__window_samples": 1024}, "64 bands over 2147483648 samples"),
    ({"frontend__mel_bins": 2**26}, "67108864 bands over 1024 samples"),
    (
        {"frontend__transform": "convolution", "frontend__n_fft": 2**16},
        r"64 bands over 65536 samples \(transform 'convolution'\)",
    ),
    ({"frontend__rate_hz": 10**15}, "10 s of 1000000000000000 samples"),
    ({"windowing__window_s": 1e15, "windowing__hop_s": 1.0}, r"1e\+15 s of 48000 samples each, expected at most"),
    ({"windowing__window_s": float("inf"), "windowing__hop_s": 1.0}, "inf s of 48000"),
    ({"text__config__num_hidden_layers": 10**6}, "more than [0-9]+ (parameters|layers)"),
    ({"text__config__num_hidden_layers": 10**15}, "num_hidden_layers = 1000000000000000, at most 16777216"),
    ({"text__config__vocab_size": 10**10}, "vocab_size = 10000000000"),
    ({"text__config": {"model_type": "clip", "text_config": {"num_hidden_layers": 2**40}}}, "num_hidden_layers = 1099"),
    ({"text__config__hidden_act": {"a": 1}}, "no encoder can be built from the configuration of 'roberta'"),
    ({"text": {"part": "clapkit.towers.beats:BEATs", "kind": "spec"}}, "parameters"),
]


@pytest.mark.parametrize(("changes", "told"), MODEL, ids=[",".join(changes) for changes, _ in MODEL])
def test_a_model_folder_that_asks_for_a_giant(ours, tmp_path, changes, told):
    model = {f"model__{name}": value for name, value in changes.items()}
    refused(
        edited(ours, tmp_path / "copy", "config.json", **model), f"config.json: the model cannot be built: .*{told}"
    )


def test_other_entries_of_our_configuration(ours, tmp_path):
    refused(edited(ours, tmp_path / "a", "config.json", pad_id=[1]), "a list as pad_id, expected a token id")
    later = edited(ours, tmp_path / "b", "config.json", format_version=7)
    refused(later, "has format_version 7, this clapkit reads 1: update clapkit")
    nested = edited(ours, tmp_path / "c", "config.json", model={f"k{i}": [[[]]] for i in range(20_000)})
    with pytest.raises(ModelError, match="not a DualEncoder") as error:
        clapkit.load(nested)
    assert len(str(error.value)) < 1000


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names here")
def test_weights_that_are_a_pipe(ours, tmp_path):
    copy = shutil.copytree(ours, tmp_path / "copy")
    (copy / "model.safetensors").unlink()
    os.mkfifo(copy / "model.safetensors")
    refused(copy, "no regular file")


PORT: list[tuple[str, dict[str, Any], str]] = [
    ("config.json", {"audio_config__spec_size": 65536}, "computed numbers"),
    ("config.json", {"audio_config__spec_size": 0}, "all sizes are at least 1"),
    ("config.json", {"text_config__layer_norm_eps": "x"}, "no encoder can be built"),
    ("preprocessor_config.json", {"fft_window_size": 2**28}, "64 bands over 268435456 samples"),
    ("preprocessor_config.json", {"max_length_s": 1e12}, r"1e\+12 s of 48000"),
    ("preprocessor_config.json", {"max_length_s": float("inf")}, "infinity"),
]


@pytest.mark.parametrize(("file", "changes", "told"), PORT, ids=[str(c) for _, c, _ in PORT])
def test_a_published_folder_that_asks_for_a_giant(small_clap, tmp_path, file, changes, told):
    refused(edited(small_clap, tmp_path / "copy", file, **changes), f"looks like transformers, but .*{told}")


@pytest.mark.parametrize(
    "name",
    [
        "audio_model.audio_encoder.layers.0.blocks.99999999.layernorm_before.weight",
        "audio_model.audio_encoder.layers.99999999.blocks.0.layernorm_before.weight",
        "text_model.encoder.layer.99999999.output.dense.weight",
        f"text_model.encoder.layer.{'9' * 900}.output.dense.weight",
    ],
)
def test_a_name_that_counts_to_the_moon(small_clap, tmp_path, name):
    copy = shutil.copytree(small_clap, tmp_path / "copy")
    save_file({**load_file(copy / "model.safetensors"), name: torch.zeros(1)}, copy / "model.safetensors")
    refused(copy, r"layer.*99999999.*has a number far beyond the [0-9]+ tensors of the file", CheckpointError)


def test_blocks_are_counted_by_any_of_their_tensors():
    tensors = {f"blocks.{i}.{name}": torch.zeros(1) for i in range(3) for name in ("norm.weight", "fc.weight")}
    del tensors["blocks.2.norm.weight"]
    tensors |= {"blocks.x.norm.weight": torch.zeros(1), "blocks.².fc.weight": torch.zeros(1)}
    assert Foreign(tensors).count("blocks.{i}.norm.weight") == 3
    assert Foreign(tensors).count("layers.{i}.norm.weight") == 0


def test_the_text_encoder_of_a_sound_side_is_no_larger_than_its_file(shared_oracles, tmp_path):
    torch.save(shrunk(shared_oracles / "msclap_clapcap_2023"), tmp_path / "sound.pt")
    small = spec(TransformersText, config={"model_type": "bert", "hidden_size": 24, "num_attention_heads": 2})
    config = {**small.arguments["config"], "num_hidden_layers": 10**6, "intermediate_size": 8, "vocab_size": 30}
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"embeddings.word_embeddings.weight": torch.zeros(30, 24)}, folder / "model.safetensors")
    with pytest.raises(ModelError, match="its settings ask for more than"):
        clapkit.load(tmp_path / "sound.pt", text=folder)
    (folder / "config.json").write_text(" " * (5 * 2**20))
    with pytest.raises(ModelError, match="larger than 4 MiB"):
        clapkit.load(tmp_path / "sound.pt", text=folder)


def test_what_fits_is_built_uninitialised_with_its_computed_tables():
    tower = HTSAT(width=12, depths=(2, 2), heads=(2, 4), image=128, expansion=2.0)
    twin = build_to_fill(
        lambda: HTSAT(width=12, depths=(2, 2), heads=(2, 4), image=128, expansion=2.0), tower.state_dict()
    )
    assert not any(tensor.is_meta for tensor in (*twin.parameters(), *twin.buffers()))
    assert all(torch.equal(a, b) for a, b in zip(tower.buffers(), twin.buffers(), strict=True))


def test_a_part_that_cannot_be_built_without_numbers_is_still_built_and_still_measured():
    def asks_for_a_number() -> nn.Module:
        return nn.Linear(int(torch.ones(3).sum()), size)

    size = 2
    assert build_to_fill(asks_for_a_number, {}).weight.shape == (2, 3)
    size = 2**24
    with pytest.raises(ModelError, match="more than 16777216 parameters, and the file holds 0 tensors with 0 numbers"):
        build_to_fill(asks_for_a_number, {})
    assert nn.Linear(2**13, 2**12).weight.numel() == 2**25, "measured no longer"


def test_what_another_thread_builds_is_not_counted():
    built = []

    def builds_beside() -> nn.Module:
        other = threading.Thread(target=lambda: built.append(nn.Linear(2**13, 2**12)))
        other.start()
        other.join()
        return nn.Linear(2, 2)

    build_to_fill(builds_beside, {})
    assert len(built) == 2


def test_sizes_of_the_tower_itself():
    for changes in ({"frames_in": 0}, {"frames_in": -5}, {"depths": (0, 2)}, {"window": 0}, {"patch": -4}):
        with pytest.raises(SpecError, match=r"frames_in|all sizes are at least 1"):
            HTSAT(**{"width": 12, "depths": (2, 2), "heads": (2, 4), "image": 128, **changes})
