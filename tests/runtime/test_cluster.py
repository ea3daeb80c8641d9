"""The engine ray: the vectors of one process, whatever becomes of the workers. One small cluster of this machine."""

from __future__ import annotations

import json
import os
import sys
from functools import partial

import numpy as np
import pyarrow.parquet
import pytest
import soundfile

import clapkit
from clapkit.errors import ClapkitError, MissingExtraError, ModelError
from clapkit.runtime.cluster import RayWorkers, _Task
from clapkit.runtime.job import embed_job
from clapkit.runtime.parts import BadFile


class Dies:
    """A model in a worker whose process is killed when it is given a certain file; once only, if `killed` notes it."""

    def __init__(self, folder, *, file, killed=None):
        self._clap = clapkit.load(folder, device="cpu", threads=1)
        self.pipeline_id, self._file, self._killed = self._clap.pipeline_id, file, killed

    def embed_each(self, sources, *, workers):
        if self._file in sources and not (self._killed and self._killed.exists()):
            if self._killed:
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
def corpus(tmp_path_factory) -> list[str]:
    """40 files of noise, one of them broken."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for number in range(40):
        soundfile.write(folder / f"{number:02d}.wav", 0.1 * rng.standard_normal(4000 + 100 * number), 8000)
    (folder / "13.wav").write_bytes(b"no sound")
    return [str(path) for path in sorted(folder.iterdir())]


@pytest.mark.timeout(600)
def test_a_killed_worker_costs_only_time(cluster, tiny_run, corpus, tmp_path):
    clap = clapkit.load(tiny_run.path, device="cpu")
    load = partial(Dies, str(tiny_run.path), file=corpus[20], killed=tmp_path / "killed")
    workers = RayWorkers(load, pipeline_id=clap.pipeline_id, workers=2, device="cpu")
    report = embed_job(clap, corpus, tmp_path / "v", embedder=workers)
    assert (tmp_path / "killed").exists()
    assert (report.embedded, report.failed) == (39, 1)
    rows = pyarrow.parquet.read_table(tmp_path / "v").to_pydict()
    good = [path for path in corpus if not path.endswith("13.wav")]
    assert sorted(rows["path"]) == good
    found = dict(zip(rows["path"], np.array(rows["vector"], np.float32), strict=True))
    assert np.abs(np.array([found[path] for path in good]) - clap.embed_audio(good)).max() <= 1e-6
    failures = (tmp_path / "v" / "_failures.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["path"] for line in failures] == [corpus[13]]


@pytest.mark.timeout(600)
def test_the_command_gives_the_same(cluster, tiny_run, corpus, tmp_path):
    from typer.testing import CliRunner

    from clapkit.cli.main import app

    words = ["embed", *corpus[10:16], "--model", str(tiny_run.path), "--out", str(tmp_path / "v"), "--windows"]
    outcome = CliRunner().invoke(app, [*words, "--device", "cpu", "--engine", "ray", "--workers", "2"])
    assert outcome.exit_code == 0, outcome.output
    assert "5 embedded, 1 skipped" in outcome.stderr
    rows = pyarrow.parquet.read_table(tmp_path / "v").to_pydict()
    vectors_WD, start_s, _ = clapkit.load(tiny_run.path, device="cpu").embed_windows(corpus[15])
    found = {start: row for path, start, row in zip(rows["path"], rows["start_s"], rows["vector"], strict=True)
             if path == corpus[15]}  # fmt: skip
    assert sorted(found) == start_s.tolist()
    assert np.abs(np.array([found[start] for start in start_s]) - vectors_WD).max() <= 1e-6
    # The same job goes on without the cluster.
    outcome = CliRunner().invoke(app, [*words[:1], *corpus[9:10], *words[1:], "--device", "cpu"])
    assert "6 embedded, 1 skipped (6 of these files in earlier runs)" in outcome.stderr


@pytest.mark.timeout(600)
def test_a_worker_with_another_model_ends_the_job(cluster, tiny_run, corpus):
    load = partial(clapkit.load, str(tiny_run.path), device="cpu")
    workers = RayWorkers(load, pipeline_id="another", workers=1, device="cpu")
    with pytest.raises(ModelError, match=r"a worker loaded the pipeline space-.*the job is of another"):
        list(workers(corpus[:1], windows=False))


def test_more_workers_than_fit(cluster):
    workers = RayWorkers(print, pipeline_id="p", workers=2, threads=2)
    with pytest.raises(ClapkitError, match=r"2 processors.*2 workers with 2 threads do not fit"):
        list(workers(["/a.wav"], windows=False))


@pytest.mark.timeout(600)
def test_a_file_that_kills_its_worker_is_found(cluster, tiny_run, corpus):
    pipeline_id = clapkit.load(tiny_run.path, device="cpu").pipeline_id
    load = partial(Dies, str(tiny_run.path), file=corpus[1])
    workers = RayWorkers(load, pipeline_id=pipeline_id, workers=1, device="cpu")
    results = {result.path: result for result in workers(corpus[:2], windows=False)}
    assert sorted(results) == corpus[:2]
    bad = [result for result in results.values() if isinstance(result, BadFile)]
    assert bad == [BadFile(corpus[1], "the worker died with this file each of 3 times")]


def test_a_task_is_tried_again_then_file_by_file():
    task = _Task(("a", "b"))
    (second,) = task.after_death()
    assert second == _Task(("a", "b"), deaths=1)
    assert second.after_death() == [_Task(("a",)), _Task(("b",))]
    assert _Task(("a",), deaths=1).after_death() == [_Task(("a",), deaths=2)]
    assert _Task(("a",), deaths=2).after_death() == []


def test_settings_that_cannot_be():
    for name in ("workers", "threads"):
        with pytest.raises(ClapkitError, match=f"{name} is 0"):
            RayWorkers(print, pipeline_id="p", **{name: 0})


def test_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"clapkit\[ray\]"):
        RayWorkers(print, pipeline_id="p")
