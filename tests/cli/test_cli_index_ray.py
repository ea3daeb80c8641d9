"""clapkit index --engine ray: workers of a real cluster make the library that one process makes, even if one is killed.

`benchmarks/index_ray.py` does the same on 300 real sounds, with a worker that is killed from outside.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from functools import partial

import numpy as np
import pytest

import clapkit as library

pytest.importorskip("lancedb")

from clapkit.runtime.cluster import RayWorkers
from clapkit.search.store import Store

WORDS = ("--engine", "ray", "--workers", "2", "--device", "cpu")


class Dies:
    """The model in a worker whose process is killed, once, when it is given a certain file."""

    def __init__(self, folder, *, file, killed):
        self._clap = library.load(folder, device="cpu", threads=1)
        self.pipeline_id, self._file, self._killed = self._clap.pipeline_id, file, killed

    def embed_each(self, sources, *, workers):
        if self._file in sources and not self._killed.exists():
            self._killed.touch()
            os.kill(os.getpid(), 9)
        return self._clap.embed_each(sources, workers=workers)


@pytest.fixture(scope="module")
def cluster():
    """Two logical processors of a cluster in this session."""
    ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'clapkit[ray]'")
    if os.name != "posix":
        pytest.skip("workers are killed with signals")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import this file
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def folder(sounds, tmp_path_factory):
    """Twelve sounds under four contents, and a file that is none."""
    folder = tmp_path_factory.mktemp("of-ray") / "sounds"
    for name in ("a", "b", "c"):
        shutil.copytree(sounds, folder / name)
    (folder / "text.wav").write_text("no sound", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def expected(clapkit, run, folder, tmp_path_factory):
    """The library of one process."""
    out = tmp_path_factory.mktemp("local") / "lib"
    assert clapkit("index", folder, "--model", run, "--out", out, "--device", "cpu").exit_code == 0
    return contents(out)


def contents(lib):
    """{(file, window): (row, vector)}, what is told of failures, and how many rows there are."""
    view = Store.open(lib).view
    (ids,), _ = view.search(np.ones((1, view.space.dimension)), len(view))
    found = {(r.file, r.window): (r, v) for r, v in zip(view.rows(ids), view.vectors(ids), strict=True)}
    return found, json.loads((lib / "failures.json").read_bytes()), len(view)


def check_equal(found, expected):
    assert found[0].keys() == expected[0].keys() and found[1:] == expected[1:]
    for key, (row, vector_D) in expected[0].items():
        assert found[0][key][0] == row
        np.testing.assert_allclose(found[0][key][1], vector_D, atol=2**-11)  # what float16 keeps of 1


@pytest.mark.timeout(600)
def test_workers_make_the_same_library_and_keep_it_in_step(cluster, clapkit, run, folder, expected, tmp_path):
    lib = tmp_path / "lib"
    outcome = clapkit("index", folder, "--model", run, "--out", lib, *WORDS)
    assert outcome.exit_code == 0, outcome.output
    assert "12 embedded, 1 skipped" in " ".join(outcome.stderr.split())
    check_equal(contents(lib), expected)
    outcome = clapkit("index", lib, *WORDS)  # nothing to embed but what failed
    assert outcome.exit_code == 0 and "0 embedded, 1 skipped, 12 unchanged" in " ".join(outcome.stderr.split())
    check_equal(contents(lib), expected)


@pytest.mark.timeout(600)
def test_a_worker_that_is_killed_costs_only_time(cluster, clapkit, run, folder, expected, tmp_path, monkeypatch):
    file, killed = (folder / "b" / sorted(os.listdir(folder / "b"))[0]).as_posix(), tmp_path / "killed"

    def workers(model, options, clap, **_):
        load = partial(Dies, str(model), file=file, killed=killed)
        return RayWorkers(load, pipeline_id=clap.pipeline_id, workers=2, device="cpu")

    monkeypatch.setattr("clapkit.cli.embed.ray_workers", workers)
    outcome = clapkit("index", folder, "--model", run, "--out", tmp_path / "lib", *WORDS)
    assert outcome.exit_code == 0, outcome.output
    assert killed.exists()
    check_equal(contents(tmp_path / "lib"), expected)
