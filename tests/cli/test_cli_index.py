"""clapkit index: a library made, kept in step, moved to another model, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

import clapkit as library

pytest.importorskip("lancedb")

from clapkit.search.store import Store


@pytest.fixture
def folder(sounds, tmp_path):
    """Four sounds and a file that is none."""
    shutil.copytree(sounds, tmp_path / "sounds")
    (tmp_path / "sounds" / "text.wav").write_text("no sound", encoding="utf-8")
    return tmp_path / "sounds"


@pytest.fixture(scope="module")
def other(clapkit, train_words, tmp_path_factory):
    """A model of another space."""
    out = tmp_path_factory.mktemp("other-run") / "run"
    assert clapkit(*train_words, "--set", "train.seed=1", "--set", "train.steps=1", "--out", out).exit_code == 0
    return out


def said(outcome):
    return " ".join(outcome.stderr.split())


def test_a_library_is_made_and_kept_in_step_with_its_folders(clapkit, run, folder, tmp_path):
    lib = tmp_path / "lib"
    outcome = clapkit("index", folder, "--model", run, "--out", lib)
    assert outcome.exit_code == 0, outcome.output
    assert "4 embedded, 1 skipped" in said(outcome) and "of 4 sounds" in said(outcome)
    (failure,) = json.loads((lib / "failures.json").read_bytes())
    assert failure["path"].endswith("text.wav") and "not a known sound" in failure["reason"]
    clap, store = library.load(run), Store.open(lib)
    for path in sorted(folder.glob("*.flac")):
        rows = store.view.windows_of(path.as_posix())
        vectors, starts_s, ends_s = clap.embed_windows(str(path))
        np.testing.assert_allclose(store.view.vectors([row.id for row in rows]), vectors, atol=2e-3)
        assert [(r.start_s, r.start_s + r.duration_s) for r in rows] == list(zip(starts_s, ends_s, strict=True))

    assert "0 embedded, 1 skipped, 4 unchanged" in said(clapkit("index", lib))
    (folder / "text.wav").unlink()
    first, second, third, _ = sorted(folder.glob("*.flac"))
    first.rename(folder / "moved.flac")
    second.unlink()
    shutil.copy(third, folder / "new.flac")
    (tmp_path / "more").mkdir()
    soundfile.write(tmp_path / "more" / "tone.wav", 0.3 * np.sin(np.arange(16000) / 5), 16000)
    outcome = clapkit("index", tmp_path / "more", "--out", lib)  # the model and the first folder are remembered
    assert outcome.exit_code == 0, outcome.output
    assert "2 embedded, 0 skipped, 1 moved, 1 deleted, 2 unchanged" in said(outcome)
    names = {path.rsplit("/", 1)[-1] for path in Store.open(lib).view.files()}
    assert names == {"moved.flac", "new.flac", "tone.wav", *(p.name for p in folder.glob("*.flac"))}
    outcome = clapkit("index", lib, "--forget", tmp_path / "more")
    assert outcome.exit_code == 0 and "1 files with it" in said(outcome)
    assert len(Store.open(lib).view.files()) == 4


def test_from_any_folder_the_same_library(clapkit, run, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert clapkit("index", "sounds", "--model", run, "--out", "lib").exit_code == 0
    monkeypatch.chdir(folder)
    assert "0 embedded, 1 skipped, 4 unchanged" in said(clapkit("index", ".", "--out", "../lib"))
    assert Store.open(tmp_path / "lib").place.read().sources == (folder.as_posix(),)


def test_a_manifest_beside_the_sounds_is_pointed_at_and_read(clapkit, run, folder, tmp_path):
    lib, table = tmp_path / "lib", folder / "manifest.jsonl"
    names = [path.name for path in sorted(folder.glob("*.flac"))]
    table.write_text(
        "\n".join(json.dumps({"path": name, "tags": ["a", f"n{n}"]}) for n, name in enumerate(names)), encoding="utf-8"
    )
    outcome = clapkit("index", folder, "--model", run, "--out", lib)
    assert "manifest.jsonl says more about these sounds" in said(outcome)
    outcome = clapkit("index", table, "--out", lib)
    assert "0 embedded, 1 skipped, 4 described anew, 4 unchanged" in said(outcome)
    store = Store.open(lib)
    for n, name in enumerate(names):
        assert {row.tags for row in store.view.windows_of((folder / name).as_posix())} == {("a", f"n{n}")}


def test_a_disk_that_is_not_there_is_told_and_kept(clapkit, run, folder, tmp_path):
    lib = tmp_path / "lib"
    clapkit("index", folder, "--model", run, "--out", lib)
    folder.rename(tmp_path / "elsewhere")
    outcome = clapkit("index", lib)
    assert outcome.exit_code == 0 and "4 kept" in said(outcome) and "is not there; what was indexed" in said(outcome)
    assert len(Store.open(lib).view.files()) == 4


def test_another_model_is_refused_until_it_is_switched_to(clapkit, run, other, folder, tmp_path):
    lib = tmp_path / "lib"
    clapkit("index", folder, "--model", run, "--out", lib)
    outcome = clapkit("index", folder, "--model", other, "--out", lib)
    assert outcome.exit_code == 2 and "--switch-model" in said(outcome)
    ids = [library.load(model).space_id for model in (run, other)]
    assert all(space_id in said(outcome) for space_id in ids)

    outcome = clapkit("index", lib, "--switch-model", other)
    assert outcome.exit_code == 0, outcome.output
    assert "4 embedded, 0 skipped" in said(outcome) and "--drop-old" in said(outcome)
    assert Store.open(lib).view.space.space_id == ids[1]
    assert len(Store.open(lib, space_id=ids[0])) == len(Store.open(lib))
    assert clapkit("search", lib, "rain").exit_code == 0  # with the new model, without being told
    assert "nothing to do" in said(clapkit("index", lib, "--switch-model", other))
    outcome = clapkit("index", lib, "--drop-old")
    assert outcome.exit_code == 0 and f"space {ids[0]} is removed" in said(outcome)
    assert set(Store.open(lib).place.read().spaces) == {ids[1]}
    assert "0 embedded, 1 skipped, 4 unchanged" in said(clapkit("index", lib))


def test_a_library_at_a_url(clapkit, run, folder, tmp_path):
    lib = f"file://{(tmp_path / 'lib').as_posix()}"
    assert clapkit("index", folder, "--model", run, "--out", lib).exit_code == 0
    assert "4 unchanged" in said(clapkit("index", lib))
    assert clapkit("search", lib, "rain").exit_code == 0
    assert len(library.Index.open(lib).search("rain", k=3)) == 3


def test_the_index_in_python(clapkit, run, folder, tmp_path):
    clapkit("index", folder, "--model", run, "--out", tmp_path / "lib")
    index = library.Index.open(tmp_path / "lib")
    (row,) = index.store.view.rows(index.store.view.search(index.model.embed_text(["rain"]), 1)[0][0])
    hit = index.search("rain", k=1)[0]
    assert (hit.id, hit.path, hit.start_s) == (row.id, row.file, row.start_s)
    assert hit.metadata == {"tags": [], "duration_s": row.duration_s}
    assert len(index) == len(index.store) and index.exact is None and index.note is None


def test_strict_and_nothing_that_can_be_used(clapkit, run, folder, tmp_path):
    assert clapkit("index", folder, "--model", run, "--strict", "--out", tmp_path / "lib").exit_code == 1
    nothing = clapkit("index", folder / "text.wav", "--model", run, "--out", tmp_path / "none")
    assert nothing.exit_code == 1 and "0 embedded, 1 skipped" in said(nothing)


def test_interrupted_it_says_so_and_goes_on(clapkit, run, folder, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("clapkit.api.Clap.embed_each", interrupted)
        outcome = clapkit("index", folder, "--model", run, "--out", tmp_path / "lib")
    assert outcome.exit_code == 130 and "the same command goes on" in said(outcome)
    assert "4 embedded" in said(clapkit("index", folder, "--model", run, "--out", tmp_path / "lib"))


def test_workers_of_a_cluster_do_the_work(clapkit, run, folder, tmp_path, monkeypatch):
    """The engine itself is tested where it lives; here, that it gets what it needs and its vectors arrive."""
    given = {}

    class Workers:
        def __init__(self, load, **settings):
            given.update(settings)
            self.load = load

        def __call__(self, paths, *, windows):
            from clapkit.runtime.job import embed_here

            assert windows
            return embed_here(self.load(), workers=0)(paths, windows=windows)

    monkeypatch.setattr("clapkit.runtime.cluster.RayWorkers", Workers)
    words = ("--engine", "ray", "--address", "host:1", "--workers", "3", "--device", "cpu")
    outcome = clapkit("index", folder, "--model", run, "--out", tmp_path / "lib", *words)
    assert outcome.exit_code == 0 and "4 embedded" in said(outcome), outcome.output
    assert (given["address"], given["workers"], given["device"]) == ("host:1", 3, "cpu")


def test_what_cannot_be_indexed(clapkit, run, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "mine.txt").write_text("precious", encoding="utf-8")
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "store.json").write_text('{"format_version": 99}', encoding="utf-8")
    out = ("--out", tmp_path / "lib")
    for words, told in (
        ((folder, "--model", run), "is no library, and none is named"),
        ((folder, *out), "name the model that is to make it"),
        ((tmp_path / "gone", "--model", run, *out), "it is not there"),
        ((tmp_path / "empty", tmp_path / "texts", "--model", run, *out), "2 of the named sources hold no sound"),
        ((folder, "--model", run, "--out", tmp_path / "texts"), "is not empty (it holds 'mine.txt')"),
        ((folder, "--model", tmp_path / "nowhere", *out), "nowhere"),
        (("s3://bucket/sounds", "--model", run, *out), "s3://bucket/sounds cannot be indexed"),
        ((tmp_path / "newer",), "format_version 99"),
        ((folder, "--model", run, "--engine", "spark", *out), "local or ray"),
        ((folder, "--model", run, "--address", "x", *out), "belongs to --engine ray"),
        ((folder, "--model", run, "--engine", "ray", "--watch", *out), "--watch works with --engine local"),
        ((folder, "--switch-model", run, *out), "name it alone"),
        ((tmp_path / "none", "--drop-old", "--out", tmp_path / "none"), "does not exist"),
    ):
        outcome = clapkit("index", *words)
        assert outcome.exit_code == 2, outcome.output
        assert told in said(outcome), outcome.stderr
    assert (tmp_path / "texts" / "mine.txt").read_text(encoding="utf-8") == "precious"
    assert not (tmp_path / "lib").exists() and not (tmp_path / "none").exists()


def test_a_second_writer_is_told_before_any_work(clapkit, run, folder, tmp_path):
    lib = tmp_path / "lib"
    clapkit("index", folder, "--model", run, "--out", lib)
    script = f"import sys, time; from clapkit.search.store import Store; s = Store.open({str(lib)!r}); s.writer()"
    holder = subprocess.Popen(
        [sys.executable, "-c", script + "; print('held', flush=True); time.sleep(60)"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == "held\n"
        for words in ((lib,), (lib, "--drop-old")):
            outcome = clapkit("index", *words)
            assert outcome.exit_code == 2 and f"is being written by process {holder.pid}" in said(outcome)
        assert clapkit("search", lib, "rain").exit_code == 0
    finally:
        holder.kill()
        holder.communicate()
    assert clapkit("index", lib).exit_code == 0


@pytest.mark.timeout(600)
def test_watching_it_takes_in_what_comes(clapkit, run, folder, tmp_path):
    pytest.importorskip("watchfiles")
    lib = tmp_path / "lib"
    clapkit("index", folder, "--model", run, "--out", lib)
    words = [sys.executable, "-m", "clapkit", "index", str(lib), "--watch", "--device", "cpu", "--workers", "1"]
    watcher = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        for line in watcher.stderr:
            if "watching for changes" in line:
                break
        tone = 0.3 * np.sin(np.arange(16000) / 5)
        soundfile.write(folder / "tone.wav", tone, 16000)
        next(path for path in folder.glob("*.flac")).unlink()
        store, until = Store.open(lib), time.monotonic() + 120
        while time.monotonic() < until:
            names = {path.rsplit("/", 1)[-1] for path in store.refresh().files()}
            if "tone.wav" in names and len(names) == 4:
                break
            time.sleep(0.2)
        assert "tone.wav" in names and len(names) == 4
    finally:
        # Where the tests themselves were started with interrupts turned off, so is the child.
        polite = os.name != "nt" and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        watcher.send_signal(signal.SIGINT if polite else signal.SIGTERM)
        told = watcher.communicate(timeout=120)[1]
    if polite:
        assert watcher.returncode == 0 and "stopped: what was indexed is kept" in " ".join(told.split())
