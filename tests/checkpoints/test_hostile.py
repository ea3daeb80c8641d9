"""Files that are damaged, are something else, or were made to do harm: refused with a reason, no code run."""

from __future__ import annotations

import builtins
import codecs
import functools
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import time
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from clapkit.checkpoints.reading import read
from clapkit.errors import CheckpointError

HERE = Path(__file__)


class Call:
    """Pickled as a call of `function`; unpickled by pickle.load, it would be made."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def pickled(value, protocol: int = 2) -> bytes:
    return pickle.dumps(value, protocol)


def as_zip(path: Path, data: bytes, blocks: dict[str, bytes] | None = None, **options) -> Path:
    """A file in the zip format of torch with this pickle."""
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("archive/data.pkl", data)
        for name, block in (blocks or {}).items():
            archive.writestr(f"archive/data/{name}", block)
        archive.writestr("archive/version", b"3\n")
    return path


def tensor_pickle(*, shape, strides, offset=0, numel=4, storage="FloatStorage", rebuild="_rebuild_tensor_v2") -> bytes:
    """The pickle of {"w": a tensor}, its numbers not bound by any real tensor."""
    numbers = lambda values: b"(" + b"".join(b"L%dL\n" % v for v in values) + b"t"  # noqa: E731
    reference = b"(U\x07storagectorch\n" + storage.encode() + b"\nU\x010U\x03cpu" + b"L%dL\n" % numel + b"tQ"
    arguments = b"(" + reference + b"L%dL\n" % offset + numbers(shape) + numbers(strides) + b"\x89}t"
    return b"\x80\x02}U\x01wctorch._utils\n" + rebuild.encode() + b"\n" + arguments + b"Rs."


def refused(path: Path, *words: str) -> str:
    began = time.process_time()
    with pytest.raises(CheckpointError) as error:
        read(path)
    assert time.process_time() - began < 20.0
    message = str(error.value)
    for word in (path.name, *words):
        assert word in message, message
    assert len(message) < 2000
    return message


def calls() -> dict[str, tuple[object, str]]:
    """What a hostile pickle may ask for, and the name that the refusal has to give."""
    return {
        "os.system": (Call(os.system, "echo x > pwned"), f"{os.name}.system"),
        "eval": (Call(eval, "open('pwned', 'w')"), "builtins.eval"),
        "exec": (Call(exec, "open('pwned', 'w')"), "builtins.exec"),
        "open": (Call(open, "pwned", "w"), "io.open"),
        "subprocess": (Call(subprocess.check_call, ["touch", "pwned"]), ".check_call"),
        "getattr": (Call(getattr, os, "system"), "getattr"),
        "partial": (Call(functools.partial, os.system), "functools.partial"),
        "torch.load": (Call(torch.load, "pwned"), "torch.serialization.load"),
        "a class of torch": (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
        "bytearray": (Call(bytearray, 10**12), "bytearray"),
        "numpy": (Call(np.zeros, 10**12), "numpy.zeros"),
        "object array": (np.array([print], dtype=object), "'O8'"),
        "codec": (Call(codecs.encode, "a" * 10, "idna"), "'idna'"),
        "list subclass": (Call(builtins.range, 10**12), "range"),
    }


@pytest.mark.parametrize("kind", calls())
@pytest.mark.parametrize("form", ["zip", "legacy", "plain"])
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_pickle_that_would_run_code_is_refused_by_the_name_it_wanted(tmp_path, monkeypatch, kind, form, protocol):
    monkeypatch.chdir(tmp_path)
    asked, name = calls()[kind] if kind != "getattr" else (Call(getattr, "text", "upper"), "getattr")
    try:
        data = pickled({"state_dict": {"w": asked}}, protocol)
    except (TypeError, pickle.PicklingError, AttributeError):
        pytest.skip("cannot be pickled with this protocol")
    path = tmp_path / "model.pt"
    if form == "zip":
        as_zip(path, data)
    elif form == "plain":
        path.write_bytes(data)
    else:
        header = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
        path.write_bytes(b"".join(map(pickled, header)) + data)
    if protocol == 0 and form == "plain" and data[:1] not in (b"c", b"("):
        refused(path)
    else:
        message = refused(path)
        assert name in message or "copy_reg._reconstructor" in message, message  # how protocol 0 writes objects
        assert "Nothing in it was run" in message
    assert not (tmp_path / "pwned").exists()


def test_torch_itself_wrote_the_hostile_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for zipped in (True, False):
        state = {"w": torch.ones(2), "evil": Call(os.mkdir, "pwned")}
        torch.save(state, "m.pt", _use_new_zipfile_serialization=zipped)
        refused(Path("m.pt"), f"'{os.name}.mkdir'")
        assert not Path("pwned").exists()


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"\x80\x02(cos\nsystem\no.", "os.system"),
        (b"\x80\x02(ios\nsystem\n.", "INST"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "'os.system'"),
        (b"\x80\x02U\x01aK\x05b.", "a state"),  # BUILD on a text
        (b"\x80\x02ctorch\nFloatStorage\n)R.", "a call of torch.FloatStorage"),
        (b"\x80\x02]\x81.", "damaged"),
        (b"\x80\x02U\x03abcQ.", "no storage"),
        (b"\x80\x05\x96" + (1).to_bytes(8, "little") + b"a.", "BYTEARRAY8"),
        (b"\x80\x05\x96" + (2**62).to_bytes(8, "little") + b"a.", "damaged"),
        (b"\x80\x04\x8d" + (2**62).to_bytes(8, "little") + b"a.", "damaged"),
        (b"\x80\x02L" + b"9" * 100_000 + b"L\n.", "damaged"),
        (b"\x80\x02}r\xff\xff\xff\xff.", "no tensors"),  # a memo index of 4e9, for which a table would take 32 GB
        (b"\x80\x02}", "damaged"),
        (b"\x80\x02.", "damaged"),
        (b"\x80\x02h\x05.", "damaged"),
        (b"\x80\x02t.", "damaged"),
        (b"\x80\x02\xff.", "damaged"),
        (b"", "damaged"),
        (b"\x80\x02]q\x00h\x00a.", "list of 1 values"),  # a list that holds itself
        (b"\x80\x02}q\x00U\x05modelh\x00s.", "no tensors"),  # a dict that holds itself
        (b"\x80\x02}))s.", "key of type tuple"),
        (b"\x80\x02K\x05.", "type int"),
    ],
)
def test_odd_pickles(tmp_path, data, word):
    refused(as_zip(tmp_path / "m.pt", data), word)


def test_a_pickle_whose_hash_would_take_for_ever(tmp_path):
    nested = ()
    for _ in range(200):
        nested = (nested, nested)
    refused(as_zip(tmp_path / "m.pt", pickled([nested, {}])), "list of 2")
    key = b"\x80\x02}" + b")" + b"2\x86" * 200 + b"K\x01s."
    refused(as_zip(tmp_path / "m.pt", key), "key of type tuple")
    as_set = b"\x80\x04\x8f(" + b")" + b"2\x86" * 200 + b"\x90."
    refused(as_zip(tmp_path / "m.pt", as_set), "list of 1 values")


def test_a_configuration_that_grows_when_it_is_written_out(tmp_path):
    grown, deep = ["ha"], []
    for _ in range(60):
        grown = [grown] * 10
    for _ in range(100_000):
        deep = [deep]
    loop: dict = {}
    loop["loop"] = loop
    path = tmp_path / "m.pt"
    sys.setrecursionlimit(10_000)
    for name, value in {"grown": grown, "loop": loop}.items():
        torch.save({"model": {"w": torch.ones(1)}, "config": {"rate": 5, name: value}}, path)
        foreign = read(path)
        assert len(json.dumps(foreign.config)) < 1_000_000
    nest = (
        b"\x80\x02}(U\x06config" + b"]" * 100_000 + b"a" * 99_999 + tensor_pickle(shape=[4], strides=[1])[3:-2] + b"u."
    )
    assert read(as_zip(path, nest, {"0": bytes(16)})).tensors["w"].shape == (4,)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"collections\nOrderedDict", [(i, i) for i in range(10_000)]),
        (b"builtins\nset", list(range(10_000))),
        (b"_codecs\nencode", "x" * 2**20),
        (b"pathlib\nPosixPath", "x" * 2**20),
        (b"torch\ndevice", "x" * 2**20),
    ],
)
def test_calls_that_copy_the_same_value_again_and_again(tmp_path, name, value):
    again = b"h\x01h\x00\x85R" if name != b"_codecs\nencode" else b"h\x01h\x00h\x02\x86R"
    start = pickled(value)[:-1] + b"r\x00\x00\x00\x00c" + name + b"\nr\x01\x00\x00\x00U\x06latin1r\x02\x00\x00\x00]("
    refused(as_zip(tmp_path / "m.pt", start + again * 20_000 + b"e."), "copy more than")


@pytest.mark.parametrize(
    "data",
    [
        b"ctorch\ndevice\n" + b")" + b"2\x86" * 200 + b"\x85R.",  # all of these would be written out, if asked to
        b"cpathlib\nPosixPath\n" + b")" + b"2\x86" * 200 + b"\x85R.",
        b"c_codecs\nencode\nU\x01a" + b")" + b"2\x86" * 200 + b"\x86R.",
        b"cnumpy\ndtype\n" + b")" + b"2\x86" * 200 + b"\x85R.",
        b")" + b"2\x86" * 200 + b"U\x01a\x93.",
        b"(U\x07storagectorch\nFloatStorage\n" + b")" + b"2\x86" * 200 + b"U\x03cpuK\x04tQ.",
        b"}\x8a\xff" + b"\x7f" * 255 + b"K\x01s.",
    ],
)
def test_values_that_would_take_for_ever_to_write_out(tmp_path, data):
    refused(as_zip(tmp_path / "m.pt", b"\x80\x02" + data))


def test_dicts_that_stand_in_each_other(tmp_path):
    for depth, words in ((2, "nests more than"), (12, "nests more than")):
        inner: dict = {}
        for _ in range(depth):
            inner = {str(i): inner for i in range(1000)}
        refused(as_zip(tmp_path / "m.pt", pickled({"model": inner})), words)
    leaves = {f"{i}": inner for i in range(1000)}
    torch.save({"w": torch.ones(1), **leaves}, tmp_path / "n.pt")
    foreign = read(tmp_path / "n.pt")
    assert len(json.dumps(foreign.config)) < 10_000_000 and len(foreign.extras) == 1000


def test_more_steps_or_bytes_than_weights_need(tmp_path):
    refused(as_zip(tmp_path / "m.pt", b"\x80\x02" + b"N0" * 600_000 + b"."), "more than 1000000 steps")
    refused(as_zip(tmp_path / "n.pt", b"\x80\x02" + b"N" * (17 * 2**20) + b"."), "at most")


@pytest.mark.parametrize(
    ("described", "word"),
    [
        ({"shape": [10**6, 10**6], "strides": [0, 0]}, "[1000000, 1000000] needs more numbers than the 4"),
        ({"shape": [5], "strides": [1]}, "[5] needs more numbers than the 4"),
        ({"shape": [2], "strides": [10**15]}, "needs more numbers"),
        ({"shape": [4], "strides": [1], "offset": 1}, "needs more numbers"),
        ({"shape": [4], "strides": [1], "offset": -1}, "cannot be"),
        ({"shape": [-4], "strides": [1]}, "cannot be"),
        ({"shape": [2, 2], "strides": [1]}, "cannot be"),
        ({"shape": [4], "strides": [-1]}, "cannot be"),
        ({"shape": [4], "strides": [1], "storage": "DoubleStorage"}, "the 2 of its storage"),
        ({"shape": [4], "strides": [1], "storage": "QInt8Storage"}, "torch.QInt8Storage"),
        ({"shape": [4], "strides": [1], "storage": "ComplexFloatStorage"}, "torch.ComplexFloatStorage"),
        ({"shape": [4], "strides": [1], "rebuild": "_rebuild_sparse_tensor"}, "torch._utils._rebuild_sparse_tensor"),
        (
            {"shape": [4], "strides": [1], "rebuild": "_rebuild_meta_tensor_no_storage"},
            "_rebuild_meta_tensor_no_storage",
        ),
        ({"shape": [1] * 5000, "strides": [0] * 5000}, "cannot be"),
    ],
)
def test_a_tensor_that_promises_more_than_there_is(tmp_path, described, word):
    path = as_zip(tmp_path / "m.pt", tensor_pickle(**described), {"0": bytes(16)})
    refused(path, word)


def test_a_storage_that_is_not_there(tmp_path):
    refused(as_zip(tmp_path / "m.pt", tensor_pickle(shape=[4], strides=[1])), "its storage is missing")


def test_many_names_for_the_same_numbers(tmp_path):
    shared = torch.zeros(2**20)
    torch.save({f"layer{i}": shared for i in range(100)}, tmp_path / "m.pt")
    refused(tmp_path / "m.pt", "together they promise 419430400 bytes")
    torch.save({"a": shared, "b": shared}, tmp_path / "tied.pt")  # two names are a tied weight
    assert set(read(tmp_path / "tied.pt").tensors) == {"a", "b"}


def test_zip_bombs(tmp_path):
    data = tensor_pickle(shape=[2**24], strides=[1], numel=2**24)
    bomb = as_zip(tmp_path / "bomb.pt", data, {"0": bytes(2**26)}, compression=zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 2**20
    refused(bomb, "compressed", "archive/data")
    torch.save({f"w{i}": torch.zeros(1000) for i in range(50)}, tmp_path / "m.pt")
    whole = bytearray((tmp_path / "m.pt").read_bytes())
    first = whole.find(b"PK\1\2")
    offsets = []
    while first >= 0:  # every entry of the directory points at the first and largest member
        offsets.append(first)
        first = whole.find(b"PK\1\2", first + 1)
    for at in offsets:
        if whole[at + 46 :].split(b"PK", 1)[0].find(b"/data/") >= 0:
            struct.pack_into("<2L", whole, at + 20, 10**7, 10**7)
    (tmp_path / "lie.pt").write_bytes(whole)
    refused(tmp_path / "lie.pt", "promises", "bytes of content")


def test_a_directory_of_a_zip_that_is_absurd(tmp_path):
    path = tmp_path / "m.pt"
    path.write_bytes(b"PK\3\4" + bytes(100) + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 9, 9, 2**31, 0, 0))
    refused(path, "whose directory has 2147483648 bytes")


@pytest.mark.parametrize("zipped", [True, False])
def test_every_truncation_is_an_error(tmp_path, zipped, rng):
    whole = tmp_path / "whole.pt"
    torch.save(
        {"state_dict": {f"w{i}": torch.ones(50) for i in range(4)}}, whole, _use_new_zipfile_serialization=zipped
    )
    data = whole.read_bytes()
    cut = tmp_path / "cut.pt"
    for length in [1, 2, 5, 20, *rng.integers(2, len(data) - 1, 60), len(data) - 1]:
        cut.write_bytes(data[:length])
        refused(cut)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_damage_is_read_or_refused_but_never_crashes(tmp_path, kind, rng):
    whole = tmp_path / "whole"
    state = {f"w{i}": torch.ones(5) for i in range(4)}
    if kind == "safetensors":
        save_file(state, whole)
    else:
        torch.save(OrderedDict(state), whole, _use_new_zipfile_serialization=kind == "zip")
    data = np.frombuffer(whole.read_bytes(), np.uint8)
    for _ in range(300):
        damaged = data.copy()
        where = rng.integers(0, len(data), rng.integers(1, 6))
        damaged[where] = rng.integers(0, 256, len(where))
        (tmp_path / "damaged").write_bytes(damaged.tobytes())
        try:
            found = read(tmp_path / "damaged").tensors
        except CheckpointError as error:
            assert "damaged" in str(error)
        else:
            assert sum(t.numel() for t in found.values()) <= 40


def header(entries: dict, length: int | None = None, data: bytes = bytes(16)) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


W = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (header({"w": W}, length=2**63), ("header has 9223372036854775808 bytes", "in a file of")),
        (header({"w": W}, length=10**9), ("header has 1000000000 bytes",)),
        (header({"w": W}, length=200), ("header has 200 bytes",)),
        (header({"w": W}, length=10), ("cannot be read",)),
        (header({"w": {**W, "data_offsets": [0, 10**12]}}), ("beyond its 16 bytes of numbers", "'w' first")),
        (header({"w": {**W, "data_offsets": [16, 0]}}), ("beyond its 16 bytes",)),
        (header({"w": {**W, "data_offsets": [-16, 0]}}), ("beyond its 16 bytes",)),
        (header({"w": {**W, "shape": [10**6]}}), ("cannot be read as safetensors",)),
        (header({"w": {**W, "shape": [2**40, 2**40]}}), ("cannot be read as safetensors",)),
        (header({"w": {**W, "dtype": "F99"}}), ("cannot be read as safetensors",)),
        (header({"w": W, "v": W}), ("cannot be read as safetensors",)),  # both on the same bytes
        (header({"w": W}, data=bytes(15)), ("beyond its 15 bytes",)),
        (header({"w": W}, data=bytes(17)), ("cannot be read as safetensors",)),
        (header({"w": 5}), ("cannot be read",)),
        (header({"w": {"dtype": "F32"}}), ("cannot be read",)),
        (header({}, data=b""), ("no tensors",)),
    ],
)
def test_safetensors_that_lie(tmp_path, data, words):
    (tmp_path / "m.pt").write_bytes(data)
    refused(tmp_path / "m.pt", *words)


def test_a_safetensors_header_that_is_deep_or_large(tmp_path):
    deep = b'{"w":' + b"[" * 10**6 + b"]" * 10**6 + b"}"
    (tmp_path / "deep").write_bytes(struct.pack("<Q", len(deep)) + deep)
    refused(tmp_path / "deep", "cannot be read")
    (tmp_path / "large").write_bytes(struct.pack("<Q", 2**25) + b"{" + bytes(2**25))
    refused(tmp_path / "large", "no file of weights needs that many")


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "empty (0 bytes)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "git lfs pull"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "a web page"),
        (b"\n  <html>", "a web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "a web page"),
        (b'{"error": "Repository not found"}', "JSON text"),
        (b"\x1f\x8b\x08" + bytes(50), "gzip"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"GGUF" + bytes(50), "GGUF"),
        (b"\x93NUMPY" + bytes(50), "numpy array"),
        (b"RIFF" + bytes(50), "a sound file"),
        (bytes(257) + b"ustar" + bytes(100), "tar archive"),
        (bytes(600), "begins with b'\\x00"),
        (b"Entry not found", "no checkpoint"),
        (os.urandom(0) + b"\x07\x08\x09" * 100, "no checkpoint"),
    ],
)
def test_what_a_download_may_be_instead(tmp_path, data, word):
    (tmp_path / "model.pt").write_bytes(data)
    refused(tmp_path / "model.pt", word)


def test_archives_that_are_not_of_torch(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones(3))
    refused(tmp_path / "a.npz", "numpy archive", "safetensors")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("folder/model.pt", b"x")
    refused(tmp_path / "a.zip", "folder/model.pt", "unpack it")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("m/data.pkl", pickled({}))
        archive.writestr("m/constants.pkl", pickled({}))
        archive.writestr("m/code/m.py", "")
    refused(tmp_path / "script.pt", "TorchScript")


@pytest.mark.parametrize(
    ("saved", "word"),
    [
        ([torch.ones(1)], "a list of 1 values"),
        (torch.ones(3), "a single tensor"),
        ({}, "no tensors"),
        ({"epoch": 3, "note": "x"}, "no tensors"),
        ({0: torch.ones(1)}, "name '0'"),
        ({"w" * 2000: torch.ones(1)}, "expected a text"),
        ({"model": {"model": {"model": {"model": {"w": torch.ones(1)}}}}}, "no tensors"),
        ("text", "type str"),
    ],
)
def test_what_is_saved_is_no_state_dict(tmp_path, saved, word):
    torch.save(saved, tmp_path / "m.pt")
    refused(tmp_path / "m.pt", word)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[1]", "holds a list"),
        (" " * (5 * 2**20), "larger than 4 MiB"),
        ("\udcff", "no text in UTF-8"),
    ],
)
def test_configurations_that_are_none(tmp_path, text, word):
    torch.save({"w": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(CheckpointError, match=word):
        read(tmp_path)


def test_a_yml_is_data(tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "m.pt")
    lines = "a: !!python/object/apply:os.system ['touch pwned']\nb: __import__('os').getcwd()\nc: " + "(" * 900 + "\n"
    (tmp_path / "c.yml").write_text(lines)
    assert read(tmp_path).config["b"] == "__import__('os').getcwd()"


@pytest.mark.parametrize("name", ["../secret.bin", "/etc/passwd", "a/b.bin", "..", "", 5, None, "C:\\x.bin"])
def test_shards_stay_in_their_folder(tmp_path, name):
    folder = tmp_path / "model"
    folder.mkdir()
    torch.save({"w": torch.ones(1)}, tmp_path / "secret.bin")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(CheckpointError, match="expected a name in its own folder"):
        read(folder)


def test_folders_and_paths_without_a_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no checkpoint \(there is nothing\): expected model.safetensors"):
        read(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(CheckpointError, match=r"there is notes\.txt"):
        read(tmp_path)
    with pytest.raises(CheckpointError, match=r"missing\.pt' is not there"):
        read(tmp_path / "missing.pt")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.pt")
        with pytest.raises(CheckpointError, match="no regular file"):
            read(tmp_path / "pipe.pt")
    (tmp_path / "pytorch_model.bin.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="has no weight_map"):
        read(tmp_path)


def test_refusing_costs_no_memory(tmp_path):
    resource = pytest.importorskip("resource")
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    for shape, strides in (([2**40], [0]), ([2**30], [1])):
        refused(as_zip(tmp_path / "m.pt", tensor_pickle(shape=shape, strides=strides), {"0": bytes(16)}), "needs more")
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**20) * 64)
    (tmp_path / "m.pt").write_bytes(data.getvalue())
    del data
    before = max(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
    refused(tmp_path / "m.pt", "compressed")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before < 50 * 2**20
