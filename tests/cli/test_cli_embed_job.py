"""clapkit embed --out FOLDER: the same vectors as in one file, continued after an interruption, near and far."""

from __future__ import annotations

import json
import shutil
import uuid
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pyarrow.parquet
import pytest

import clapkit as library


@pytest.fixture
def mixed(sounds, tmp_path):
    """A folder with four sounds and two files that only look like sound."""
    folder = tmp_path / "sounds"
    shutil.copytree(sounds, folder)
    (folder / "text.wav").write_text("this is no sound", encoding="utf-8")
    (folder / "empty.mp3").write_bytes(b"")
    return folder


@pytest.fixture
def far():
    """An empty place behind fsspec."""
    fsspec = pytest.importorskip("fsspec")
    name = f"/{uuid.uuid4().hex}"
    yield fsspec.filesystem("memory"), f"memory:/{name}"
    fsspec.filesystem("memory").rm(name, recursive=True)


def rows_of(out) -> dict:
    return pyarrow.parquet.read_table(out).to_pydict()


def failures_of(out) -> list[str]:
    lines = (out / "_failures.jsonl").read_text(encoding="utf-8").splitlines()
    return sorted(json.loads(line)["path"] for line in lines)


def test_a_folder_holds_what_one_file_would(clapkit, run, mixed, tmp_path):
    clapkit("embed", mixed, "--model", run, "--out", tmp_path / "v.parquet")
    outcome = clapkit("embed", mixed, "--model", run, "--out", tmp_path / "v", "--part-rows", 2)
    assert outcome.exit_code == 0, outcome.output
    assert "4 embedded, 2 skipped" in outcome.stderr
    assert "2 of 6 files" in outcome.stderr or "3 of 6 files" in outcome.stderr
    assert "files/s" in outcome.stderr
    assert "not a known sound" in outcome.stderr
    one = rows_of(tmp_path / "v.parquet")
    parts = pyarrow.parquet.read_table(tmp_path / "v").sort_by("path").to_pydict()
    assert parts == one
    assert failures_of(tmp_path / "v") == [str(mixed / "empty.mp3"), str(mixed / "text.wav")]


def test_the_same_command_again_goes_on(clapkit, run, mixed, tmp_path):
    words = ("embed", mixed, "--model", run, "--out", tmp_path / "v", "--part-rows", 2)
    assert clapkit(*words).exit_code == 0
    for part in sorted((tmp_path / "v").glob("part-*"))[1:]:
        part.unlink()
    (tmp_path / "v" / ".part-00001-abc.parquet.123.partial").write_bytes(b"half")
    again = clapkit(*words)
    assert "4 embedded, 2 skipped (4 of these files in earlier runs)" in again.stderr
    assert sorted(rows_of(tmp_path / "v")["path"]) == sorted(str(path) for path in mixed.glob("*.flac"))
    assert not list((tmp_path / "v").glob("*.partial"))
    assert clapkit(*words, "--strict").exit_code == 1


def test_another_model_or_precision_stops(clapkit, run, sounds, mixed, tmp_path):
    words = ("embed", mixed, "--out", tmp_path / "v", "--model")
    assert clapkit(*words, run).exit_code == 0
    before = rows_of(tmp_path / "v")
    changed = library.load(run)
    next(changed.model.audio.parameters()).data += 0.25
    changed.save(tmp_path / "other")
    for end, told in (((tmp_path / "other",), "space_id"), ((run, "--precision", "bf16"), "precision"),
                      ((run, "--windows"), "windows")):  # fmt: skip
        outcome = clapkit(*words, *end)
        assert outcome.exit_code == 2
        assert f"was begun with {told}" in outcome.stderr
    assert rows_of(tmp_path / "v") == before


def test_sounds_and_vectors_behind_fsspec(clapkit, run, mixed, far, tmp_path):
    files, place = far
    for path in mixed.iterdir():
        files.pipe_file(f"{place}/in/deep/{path.name}", path.read_bytes())
    files.pipe_file(f"{place}/in/.hidden/a.wav", b"")
    files.pipe_file(f"{place}/in/notes.txt", b"")
    words = ("embed", f"{place}/in", mixed, "--model", run, "--out", f"{place}/out", "--part-rows", 3)
    outcome = clapkit(*words)
    assert outcome.exit_code == 0, outcome.output
    assert "8 embedded, 4 skipped" in outcome.stderr
    rows = pyarrow.parquet.read_table(f"{place}/out".removeprefix("memory:/"), filesystem=files).to_pydict()
    vectors = dict(zip(rows["path"], np.array(rows["vector"]), strict=True))
    assert len(vectors) == len(rows["path"]) == 8
    for path in mixed.glob("*.flac"):
        url = next(name for name in vectors if name.startswith("memory:") and name.endswith(f"/in/deep/{path.name}"))
        assert np.abs(vectors[url] - vectors[str(path)]).max() <= 1e-6
    names = [name.rsplit("/", 1)[1] for name in files.ls(f"{place}/out", detail=False)]
    assert {name.split("-")[0] for name in names} == {"_job.json", "_failures.jsonl", "part"}
    assert "(12 of these files in earlier runs)" in clapkit(*words).stderr


def test_sounds_behind_fsspec_into_one_file(clapkit, run, mixed, far, tmp_path):
    files, place = far
    sound = min(mixed.glob("*.flac"))
    files.pipe_file(f"{place}/a.flac", sound.read_bytes())
    words = (f"{place}/a.flac", f"{place}/gone.wav", f"file://{sound}")
    outcome = clapkit("embed", *words, "--model", run, "--out", tmp_path / "v.npz")
    assert outcome.exit_code == 0, outcome.output
    arrays = np.load(tmp_path / "v.npz")
    assert arrays["path"].tolist() == [f"{place}/a.flac", str(sound)]
    assert np.abs(arrays["vector"][0] - arrays["vector"][1]).max() <= 1e-6
    failures = json.loads((tmp_path / "v.npz.failures.json").read_bytes())
    assert failures == [{"path": f"{place}/gone.wav", "reason": "no such file"}]


def test_file_urls_are_paths(clapkit, run, mixed, tmp_path):
    outcome = clapkit("embed", f"file://{mixed}", "--model", run, "--out", f"file://{tmp_path}/v")
    assert outcome.exit_code == 0, outcome.output
    assert sorted(rows_of(tmp_path / "v")["path"]) == sorted(str(path) for path in mixed.glob("*.flac"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--out", "v", "--engine", "spark"), "local or ray, not 'spark'"),
        (("--out", "v", "--workers", "2"), "--address and --workers belong to --engine ray"),
        (("--out", "v.npz", "--engine", "ray"), "with --engine ray, name a folder"),
        (("--out", "nowhere://v"), "nowhere"),
        (("memory://there/is/none", "--out", "v"), "no file in it ends in"),
        (("nowhere://sounds", "--out", "v"), "nowhere"),
    ],
)
def test_settings_that_cannot_be(clapkit, run, sounds, tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    outcome = clapkit("embed", sounds, "--model", run, *words)
    assert outcome.exit_code == 2, outcome.output
    assert told in outcome.stderr.replace("\n", " ")
    assert not list(tmp_path.iterdir())


def test_a_file_without_an_ending_is_no_folder(clapkit, run, sounds, tmp_path):
    (tmp_path / "v").write_bytes(b"")
    outcome = clapkit("embed", sounds, "--model", run, "--out", tmp_path / "v")
    assert outcome.exit_code == 2
    assert "is a file without an ending" in outcome.stderr


@pytest.fixture
def web(mixed):
    """The folder of sounds behind HTTP, on this machine."""
    pytest.importorskip("aiohttp", reason="fsspec reads http with aiohttp: pip install 'clapkit[cloud]'")
    handler = partial(SimpleHTTPRequestHandler, directory=str(mixed))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_sounds_behind_http(clapkit, run, mixed, web, tmp_path):
    sound = min(mixed.glob("*.flac"))
    outcome = clapkit("embed", f"{web}/{sound.name}", f"{web}/gone.wav", sound, "--model", run, "--out", tmp_path / "v")
    assert outcome.exit_code == 0, outcome.output
    rows = rows_of(tmp_path / "v")
    assert sorted(rows["path"]) == sorted([f"{web}/{sound.name}", str(sound)])
    assert np.abs(np.subtract(*rows["vector"])).max() <= 1e-6
    assert failures_of(tmp_path / "v") == [f"{web}/gone.wav"]
