"""Every kind of file and folder that weights come in, against `torch.load` and against what was saved."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from clapkit.checkpoints.reading import read
from clapkit.errors import CheckpointError

FORMATS = [(zipped, protocol) for zipped in (True, False) for protocol in (2, 3, 4, 5)]


def weights(seed: int = 0) -> OrderedDict:
    random = torch.Generator().manual_seed(seed)
    base = torch.randn(6, 4, generator=random)
    state = OrderedDict(
        {
            "tower.weight": base,
            "tower.transposed": base.T,
            "tower.rows": base[2:4],
            "tower.every_other": base[::2, 1],
            "tower.parameter": torch.nn.Parameter(torch.randn(3, generator=random)),
            "tower.frozen": torch.nn.Parameter(torch.randn(3, generator=random), requires_grad=False),
            "head.half": torch.randn(5, generator=random).half(),
            "head.brain": torch.randn(5, generator=random).bfloat16(),
            "head.double": torch.randn(5, generator=random).double(),
            "head.steps": torch.tensor(7),
            "head.mask": torch.tensor([True, False]),
            "head.small": torch.tensor([1, -2], dtype=torch.int8),
            "head.empty": torch.empty(0, 3),
            "logit_scale": torch.tensor(2.5),
        }
    )
    state._metadata = {"": {"version": 1}}  # as Module.state_dict() leaves it
    return state


def same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor.detach()), name


@pytest.mark.parametrize(("zipped", "protocol"), FORMATS)
def test_a_file_of_torch_save_is_read_as_torch_reads_it(tmp_path, zipped, protocol):
    path = tmp_path / "anything.bin"
    torch.save(weights(), path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    foreign = read(path)
    assert not any(tensor.requires_grad for tensor in foreign.tensors.values())
    same(foreign.tensors, weights())
    if protocol == 2:  # the only one that torch writes by itself, and reads with weights_only
        same(foreign.tensors, torch.load(path, weights_only=True))
    assert foreign.path == path and foreign.config == {} and foreign.extras == ()


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_that_shared_their_numbers_still_do(tmp_path, zipped):
    torch.save(weights(), tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    found = read(tmp_path / "a.pt").tensors
    assert found["tower.weight"].data_ptr() == found["tower.transposed"].data_ptr()
    assert found["tower.rows"].untyped_storage().data_ptr() == found["tower.weight"].untyped_storage().data_ptr()


def test_the_first_bytes_say_what_a_file_is_and_its_name_nothing(tmp_path):
    plain = {name: tensor.contiguous().clone() for name, tensor in weights().items()}
    save_file(plain, tmp_path / "odd.pt")
    torch.save(plain, tmp_path / "odd.safetensors")
    for name in ("odd.pt", "odd.safetensors"):
        found = read(tmp_path / name).tensors
        assert all(torch.equal(found[key], plain[key]) for key in plain) and len(found) == len(plain)


def test_what_torch_writes_for_a_model_and_its_optimizer(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(8, 4)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 5])
    for zipped in (True, False):
        torch.save(
            {
                "epoch": np.int64(3),
                "best": np.float32(0.5),
                "name": "run",
                "state_dict": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scheduler": scheduler.state_dict(),
                "scaler": {},
            },
            tmp_path / "a.pt",
            _use_new_zipfile_serialization=zipped,
        )
        foreign = read(tmp_path / "a.pt")
        same(foreign.tensors, model.state_dict())
        assert foreign.extras == ("epoch", "best", "name", "optimizer", "scheduler", "scaler")
        assert foreign.config == {"epoch": 3, "best": 0.5, "name": "run"}


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "cfg": {"layers": 2}},
        lambda state: {"config": {}, "model": {"state_dict": state}},
        lambda state: {"iteration": 5, "encoder_weights": state},
        lambda state: {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
        lambda state: {"model": {f"module._orig_mod.{name}": tensor for name, tensor in state.items()}},
        lambda state: {f"_orig_mod.module.{name}": tensor for name, tensor in state.items()},
        lambda state: {"state_dict": {f"model._orig_mod.{name}": tensor for name, tensor in state.items()}},
    ],
)
def test_wrappers_are_taken_off(tmp_path, wrapped):
    torch.save(wrapped(weights()), tmp_path / "a.pt")
    same(read(tmp_path / "a.pt").tensors, weights())


def test_a_dict_of_modules_is_one_model(tmp_path):
    parts = {"encoder": {"w": torch.ones(2)}, "head": {"w": torch.zeros(3)}, "optimizer": {"m": torch.ones(9)}}
    torch.save(parts, tmp_path / "a.pt")
    foreign = read(tmp_path / "a.pt")
    same(foreign.tensors, {"encoder.w": torch.ones(2), "head.w": torch.zeros(3)})
    assert foreign.extras == ("optimizer",)


def test_a_prefix_that_only_some_names_have_stays(tmp_path):
    state = {"module.a": torch.ones(1), "b": torch.ones(2)}
    torch.save(state, tmp_path / "a.pt")
    same(read(tmp_path / "a.pt").tensors, state)


def test_small_entries_of_the_wrapper_are_the_configuration(tmp_path):
    table = defaultdict(list)
    table["x"].append(1)
    torch.save(
        {
            "model": {"w": torch.ones(2)},
            "cfg": {"layers": 12, "nested": {"norm": None, "sizes": (80, 608)}},
            "norm_stats": torch.tensor([-7.5, 4.25]),
            "mean": np.array([1.0, 2.0], ">f4"),
            "args": argparse.Namespace(rate=16000, out=Path("some") / "where"),
            "table": table,
            "kinds": {"a"},
            "device": torch.device("cpu"),
            "size": torch.Size([3, 4]),
            "type": torch.float32,
            "large": torch.zeros(65),
            "long": "x" * 10_001,
            "huge": 2**70,
            "raw": b"12",
        },
        tmp_path / "a.pt",
    )
    foreign = read(tmp_path / "a.pt")
    config = dict(foreign.config)
    assert config.pop("cfg") == {"layers": 12, "nested": {"norm": None, "sizes": [80, 608]}}
    assert config == {
        "layers": 12,
        "nested": {"norm": None, "sizes": [80, 608]},
        "norm_stats": [-7.5, 4.25],
        "mean": [1.0, 2.0],
        "args": {"rate": 16000, "out": str(Path("some") / "where").replace("\\", "/")},
        "table": {"x": [1]},
        "kinds": ["a"],
        "device": "cpu",
        "size": [3, 4],
    }
    assert set(foreign.extras) > {"cfg", "large", "long", "huge", "raw", "type"}
    json.dumps(config)


def test_arrays_of_numpy_are_tensors_too(tmp_path):
    arrays = {"a": np.arange(6, dtype=">f4").reshape(2, 3), "b": np.asfortranarray(np.arange(6.0).reshape(2, 3))}
    torch.save(arrays, tmp_path / "a.pt")
    found = read(tmp_path / "a.pt").tensors
    for name, array in arrays.items():
        assert np.array_equal(found[name].numpy(), array), name


@pytest.mark.parametrize(
    "name", ["model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin", "checkpoint-300.pth"]
)
def test_a_folder_stands_for_its_checkpoint(tmp_path, name):
    state = {"w": torch.arange(4.0)}
    (save_file if name.endswith("safetensors") else torch.save)(state, tmp_path / name)
    torch.save({"lr": 1.0}, tmp_path / "optimizer.pt")
    torch.save({"lr": 1.0}, tmp_path / "training_args.bin")
    (tmp_path / "config.json").write_text('{"model_type": "clap", "sizes": [1, 2]}')
    (tmp_path / "preprocessor_config.json").write_text('{"truncation": "fusion"}')
    wanted = {"model_type": "clap", "sizes": [1, 2], "preprocessor_config": {"truncation": "fusion"}}
    for path in (tmp_path, tmp_path / name):
        foreign = read(path, variant="16k")
        same(foreign.tensors, state)
        assert foreign.config == wanted and foreign.path == path and foreign.variant == "16k"


def test_the_configuration_of_one_checkpoint_is_not_that_of_another(tmp_path):
    for name in ("one.pt", "two.pt"):
        torch.save({"w": torch.ones(1)}, tmp_path / name)
    (tmp_path / "config.json").write_text('{"rate": 1}')
    assert read(tmp_path / "one.pt").config == {}
    with pytest.raises(CheckpointError, match=r"holds 2 checkpoints \(one.pt, two.pt\): give one of these"):
        read(tmp_path)


def test_a_yml_beside_a_checkpoint_is_read_line_by_line(tmp_path):
    torch.save({"model": {"w": torch.ones(1)}, "config": {"fmin": 60}}, tmp_path / "CLAP.pth")
    lines = (
        "# about\ntext_model: 'gpt2' # a comment\nsampling_rate: 44100\nfmin: 50\nlr: 1e-3\nfreeze: True\nnone: null\n"
    )
    (tmp_path / "config.yml").write_text(lines + "sizes: [80, 608]\nnested:\n  inner: 3\nplain: some words: more\n")
    config = read(tmp_path).config
    assert config == {
        "text_model": "gpt2",
        "sampling_rate": 44100,
        "fmin": 60,  # the file's own word is the last
        "lr": 1e-3,
        "freeze": True,
        "none": None,
        "sizes": [80, 608],
        "plain": "some words: more",
        "config": {"fmin": 60},
    }


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards_are_one_model(tmp_path, kind):
    parts = {f"part-{i}.{kind}": {f"w{i}": torch.full((3,), float(i))} for i in range(3)}
    for name, state in parts.items():
        (save_file if kind == "safetensors" else torch.save)(state, tmp_path / name)
    names = {name: file for file, state in parts.items() for name in state}
    index = tmp_path / ("model.safetensors.index.json" if kind == "safetensors" else "pytorch_model.bin.index.json")
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    (tmp_path / "config.json").write_text("{}")
    same(read(tmp_path).tensors, {f"w{i}": torch.full((3,), float(i)) for i in range(3)})
    (tmp_path / f"part-1.{kind}").unlink()
    with pytest.raises(CheckpointError, match=rf"names 3 files, 1 are missing: part-1.{kind}"):
        read(tmp_path)


def test_the_same_tensor_in_two_shards_is_an_error(tmp_path):
    for name in ("a.bin", "b.bin"):
        torch.save({"w": torch.ones(1)}, tmp_path / name)
    (tmp_path / "pytorch_model.bin.index.json").write_text('{"weight_map": {"w": "a.bin", "v": "b.bin"}}')
    with pytest.raises(CheckpointError, match="tensor 'w' stands in two"):
        read(tmp_path)


MEASURE = """
import resource, sys, time
from clapkit.checkpoints.reading import read
unit = 1 if sys.platform == "darwin" else 1024
before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, time.process_time()
tensors = read(sys.argv[1]).tensors
total = sum(t.numel() * t.element_size() for t in tensors.values())
if len(sys.argv) > 2: total += sum(float(t.sum()) * 0 for t in tensors.values())
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
print(total, peak - before, time.process_time() - began)
"""


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_large_file_costs_the_memory_of_its_model_once(tmp_path, kind):
    pytest.importorskip("resource")
    path = tmp_path / "large"
    state = {f"layer{i}": torch.full((1024, 1024), float(i)) for i in range(20)}
    if kind == "safetensors":
        save_file(state, path)
    else:
        extra = {str(i): torch.ones(1024, 1024) for i in range(10)}
        wrapped = {"state_dict": state, "optimizer": {"state": {0: extra}}}
        torch.save(wrapped, path, _use_new_zipfile_serialization=kind == "zip")
    del state
    words = [sys.executable, "-c", MEASURE, str(path), "touch"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    path.unlink()
    total, peak, seconds = map(float, done.stdout.split())
    assert total == 20 * 2**22
    assert peak <= 1.25 * total, f"{peak / 2**20:.0f} MiB for a model of {total / 2**20:.0f} MiB"
    assert seconds < 5.0  # of the processor
