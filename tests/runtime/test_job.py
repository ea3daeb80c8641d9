"""Big jobs: whatever ends a run, the next one goes on, and the folder is that of a run that nothing has ended."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import soundfile

import clapkit
from clapkit.errors import DataError
from clapkit.runtime.job import embed_here, embed_job
from clapkit.runtime.parts import BadFile, FileRows, stored_path

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def clap(tiny_run):
    return clapkit.load(tiny_run.path)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> list[str]:
    """60 files of noise between 0.1 and 1.6 s, six of them broken in three ways."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for number in range(60):
        sound = folder / f"{number:03d}.wav"
        soundfile.write(sound, 0.1 * rng.standard_normal(800 + 200 * number), 8000)
        if number % 30 == 7:
            sound.write_bytes(b"")
        elif number % 30 == 17:
            sound.write_bytes(b"no sound at all, only words")
        elif number % 30 == 27:
            sound.write_bytes(sound.read_bytes()[:200])
    return [str(path) for path in sorted(folder.iterdir())]


@pytest.fixture(scope="module")
def expected(clap, corpus) -> dict[str, np.ndarray]:
    """What a run in memory gives: path -> vector, bad files left out."""
    vectors_ND = clap.embed_audio(corpus, on_error="nan")
    return {path: row for path, row in zip(corpus, vectors_ND, strict=True) if np.isfinite(row).all()}


def read(out) -> tuple[dict[str, list], list[dict]]:
    """The columns of all parts, and all failures, as a stranger would read them."""
    failures = [json.loads(line) for path in Path(out).glob("_failures*.jsonl") for line in path.open(encoding="utf-8")]
    return pyarrow.parquet.read_table(out).to_pydict(), failures


def check_whole(out, corpus, expected) -> None:
    rows, failures = read(out)
    assert sorted(rows["path"]) == sorted(expected)
    found = dict(zip(rows["path"], np.array(rows["vector"]), strict=True))
    assert max(np.abs(found[path] - expected[path]).max() for path in expected) <= 1e-6
    assert sorted(row["path"] for row in failures) == sorted(set(corpus) - set(expected))
    assert all(row["reason"] for row in failures)
    assert json.loads((Path(out) / "_job.json").read_bytes())["finished"] is True


class Ends(Exception):
    """What a test ends a run with."""


def ending(embedder, *, after: int):
    """The embedder, which gives up after so many results."""

    def embed(paths, *, windows):
        for count, result in enumerate(embedder(paths, windows=windows)):
            if count == after:
                raise Ends
            yield result

    return embed


def test_a_folder_is_one_table(clap, corpus, expected, tmp_path):
    told = []
    report = embed_job(clap, corpus, tmp_path / "v", part_rows=16, on_progress=told.append)
    check_whole(tmp_path / "v", corpus, expected)
    assert (report.embedded, report.failed, report.before) == (54, 6, 0)
    assert sorted(path for path, _ in report.failures) == sorted(set(corpus) - set(expected))
    parts = sorted(p.name for p in (tmp_path / "v").glob("part-*.parquet"))
    assert [name[:10] for name in parts] == ["part-00000", "part-00001", "part-00002", "part-00003"]
    table = pyarrow.parquet.read_table(tmp_path / "v")
    assert table.schema.names == ["path", "start_s", "duration_s", "vector", "pipeline_id"]
    assert table.schema.field("vector").type == pyarrow.list_(pyarrow.float32(), clap.dimension)
    assert set(table["pipeline_id"].to_pylist()) == {clap.pipeline_id}
    job = json.loads((tmp_path / "v" / "_job.json").read_bytes())
    assert (job["space_id"], job["pipeline_id"], job["windows"]) == (clap.space_id, clap.pipeline_id, False)
    assert [at.done for at in told] == [0, *range(1, 61), 60]
    assert all(at.total == 60 for at in told)
    assert told[-1].left_s == 0
    assert told[30].rate_per_s > 0
    assert told[30].left_s == pytest.approx(30 / told[30].rate_per_s)


def test_windows_of_a_file_stay_together(clap, tmp_path):
    rng = np.random.default_rng(1)
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", 0.1 * rng.standard_normal(8000 * 2), 8000)
    paths = [str(tmp_path / "a.wav"), str(tmp_path / "b.wav")]
    embed_job(clap, paths, tmp_path / "v", windows=True, part_rows=3)
    for part in (tmp_path / "v").glob("part-*"):
        rows = pyarrow.parquet.read_table(part).to_pydict()
        vectors_WD, start_s, end_s = clap.embed_windows(rows["path"][0])
        assert len(set(rows["path"])) == 1
        assert rows["start_s"] == start_s.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5]
        assert np.allclose(np.add(rows["start_s"], rows["duration_s"]), end_s)
        assert np.abs(np.array(rows["vector"]) - vectors_WD).max() <= 1e-6
    assert len(list((tmp_path / "v").glob("part-*"))) == 2


@pytest.mark.parametrize("after", [0, 1, 15, 16, 17, 59])
def test_a_run_that_fails_goes_on(clap, corpus, expected, tmp_path, after):
    out = tmp_path / "v"
    with pytest.raises(Ends):
        embed_job(clap, corpus, out, part_rows=16, embedder=ending(embed_here(clap), after=after))
    rows, failures = read(out) if list(out.glob("part-*")) else ({"path": []}, [])
    assert len(rows["path"]) + len(failures) == after or after <= 1  # what was embedded is written before it ends
    assert json.loads((out / "_job.json").read_bytes())["finished"] is False
    report = embed_job(clap, corpus, out, part_rows=16)
    assert report.before == after
    check_whole(out, corpus, expected)


def test_what_is_done_is_not_embedded_again(clap, corpus, expected, tmp_path):
    def never(paths, *, windows):
        raise AssertionError(paths)

    embed_job(clap, corpus, tmp_path / "v")
    report = embed_job(clap, corpus, tmp_path / "v", embedder=never)
    assert (report.embedded, report.failed, report.before) == (54, 6, 60)
    check_whole(tmp_path / "v", corpus, expected)


def test_more_files_are_added(clap, corpus, expected, tmp_path):
    embed_job(clap, corpus[:20], tmp_path / "v", asked=["a"])
    embed_job(clap, corpus, tmp_path / "v", asked=["a", "b"])
    check_whole(tmp_path / "v", corpus, expected)
    assert json.loads((tmp_path / "v" / "_job.json").read_bytes())["asked"] == ["a", "b"]


def test_failures_that_are_deleted_are_tried_again(clap, corpus, expected, tmp_path):
    embed_job(clap, corpus, tmp_path / "v")
    (tmp_path / "v" / "_failures.jsonl").unlink()
    assert embed_job(clap, corpus, tmp_path / "v").before == 54
    check_whole(tmp_path / "v", corpus, expected)


def test_what_the_caller_skipped_fails_once(clap, corpus, tmp_path):
    skipped = [("gone.wav", "a broken link")]
    for before in (0, 3):
        report = embed_job(clap, corpus[:2], tmp_path / "v", skipped=skipped)
        assert (report.embedded, report.failed, report.before) == (2, 1, before)
    assert read(tmp_path / "v")[1] == [{"path": "gone.wav", "reason": "a broken link"}]


def test_a_kill_while_failures_are_joined_leaves_none_twice(clap, corpus, expected, tmp_path):
    embed_job(clap, corpus, tmp_path / "v")
    lines = (tmp_path / "v" / "_failures.jsonl").read_bytes()
    (tmp_path / "v" / "_failures-00003-0123456789ab.jsonl").write_bytes(lines)
    embed_job(clap, corpus, tmp_path / "v")
    check_whole(tmp_path / "v", corpus, expected)


def test_a_result_that_comes_twice_is_taken_once(clap, corpus, expected, tmp_path):
    def twice(paths, *, windows):
        for result in embed_here(clap)(paths, windows=windows):
            yield from (result, result)

    embed_job(clap, corpus, tmp_path / "v", embedder=twice)
    check_whole(tmp_path / "v", corpus, expected)


def test_results_that_are_missing_are_told(clap, corpus, tmp_path):
    with pytest.raises(clapkit.errors.ClapkitError, match=r"60 files got no result.*000\.wav"):
        embed_job(clap, corpus, tmp_path / "v", embedder=lambda paths, windows: iter(()))


class Pretends:
    """A model of made-up identity: only what a job asks before it embeds."""

    space_id, precision, pipeline_id, dimension, folder = "s1", "fp32", "p1", 2, "model"

    def __init__(self, **other):
        vars(self).update(other)

    @staticmethod
    def embedder(paths, *, windows):
        for path in paths:
            yield FileRows(path, (0.0,), (1.0,), np.ones((1, 2), np.float32))


@pytest.mark.parametrize(
    ("changed", "options", "told"),
    [
        ({"space_id": "s2"}, {}, "space_id s1.*space_id s2"),
        ({"precision": "bf16"}, {}, "precision fp32.*precision bf16"),
        ({"pipeline_id": "p2"}, {}, "pipeline_id p1.*pipeline_id p2"),
        ({}, {"windows": True}, "windows False.*windows True"),
    ],
)
def test_another_model_or_setting_is_refused(tmp_path, changed, options, told):
    out = tmp_path / "v"
    embed_job(Pretends(), ["/a.wav"], out, embedder=Pretends.embedder)
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(DataError, match=told):
        embed_job(Pretends(**changed), ["/a.wav", "/b.wav"], out, embedder=Pretends.embedder, **options)
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    embed_job(Pretends(), ["/a.wav", "/b.wav"], out, embedder=Pretends.embedder)
    assert sorted(read(out)[0]["path"]) == ["/a.wav", "/b.wav"]


def test_relative_paths_belong_to_a_place(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    embed_job(Pretends(), ["a.wav"], tmp_path / "v", embedder=Pretends.embedder)
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"'a\.wav' would name other files"):
        embed_job(Pretends(), ["a.wav"], tmp_path / "v", embedder=Pretends.embedder)
    embed_job(Pretends(), ["/b.wav"], tmp_path / "v", embedder=Pretends.embedder)


def test_names_that_are_no_text(tmp_path):
    names = [os.fsdecode(b"/\xff.wav"), os.fsdecode(b"/\xfe.wav"), "/\u00fc.wav"]
    embed_job(Pretends(), names, tmp_path / "v", embedder=Pretends.embedder)
    assert sorted(read(tmp_path / "v")[0]["path"]) == ["/\\xfe.wav", "/\\xff.wav", "/\u00fc.wav"]
    assert embed_job(Pretends(), names, tmp_path / "v").before == 3
    with pytest.raises(DataError, match="two files are both written"):
        embed_job(Pretends(), [names[0], stored_path(names[0])], tmp_path / "w")


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.doc").write_text("years of work", encoding="utf-8")
    with pytest.raises(DataError, match=r"holds other things \('thesis.doc'\)"):
        embed_job(Pretends(), ["/a.wav"], tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("_job.json", b"{", "_job.json cannot be read"),
        ("_job.json", b'{"format_version": 99}', "format 99"),
        ("_failures.jsonl", b"{", "_failures.jsonl cannot be read.*delete it"),
        ("part-00000-0.parquet", b"PAR1", "part-00000-0.parquet cannot be read.*delete it"),
    ],
)
def test_files_that_are_damaged_are_named(tmp_path, name, content, told):
    embed_job(Pretends(), ["/a.wav"], tmp_path, embedder=Pretends.embedder)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=told):
        embed_job(Pretends(), ["/a.wav"], tmp_path, embedder=Pretends.embedder)


def test_two_processes_do_not_write_into_one_folder(tmp_path):
    def second(paths, *, windows):
        program = "import sys\nfrom clapkit.runtime.storage import open_folder\nopen_folder(sys.argv[1])"
        done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True)
        assert "another process writes there now" in done.stderr
        yield from Pretends.embedder(paths, windows=windows)

    embed_job(Pretends(), ["/a.wav"], tmp_path, embedder=second)


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"file.v cannot be written \(.*give the same command again"):
        embed_job(Pretends(), ["/a.wav"], tmp_path / "file" / "v")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(tmp_path):
    (tmp_path / "v").mkdir(mode=0o500)
    with pytest.raises(DataError, match=r"cannot be written \(Permission denied\)"):
        embed_job(Pretends(), ["/a.wav"], tmp_path / "v")


def test_a_full_disk(tmp_path, monkeypatch):
    paths = [f"/{number}.wav" for number in range(10)]
    sync, calls = os.fsync, []

    def full_at_the_third_part(handle):
        calls.append(handle)
        if len(calls) == 4:  # the first is _job.json
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_at_the_third_part)
        with pytest.raises(DataError, match=r"part-00002.* \(No space left on device\).*is whole"):
            embed_job(Pretends(), paths, tmp_path, part_rows=2, embedder=Pretends.embedder)
    assert sorted(read(tmp_path)[0]["path"]) == paths[:4]
    assert not list(tmp_path.glob("*.partial"))
    assert embed_job(Pretends(), paths, tmp_path, embedder=Pretends.embedder).before == 4
    assert sorted(read(tmp_path)[0]["path"]) == paths


def test_part_rows_of_none(tmp_path):
    with pytest.raises(DataError, match="part_rows is 0"):
        embed_job(Pretends(), ["/a.wav"], tmp_path, part_rows=0)


def test_parts_are_written_after_some_time(tmp_path):
    embed_job(Pretends(), ["/a.wav", "/b.wav"], tmp_path, part_s=0.0, embedder=Pretends.embedder)
    assert len(list(tmp_path.glob("part-*"))) == 2


def test_many_failures_do_not_pile_up(tmp_path):
    told = []

    def bad(paths, *, windows):
        yield from (BadFile(path, "broken") for path in paths)

    paths = [f"/{number}.wav" for number in range(100)]
    report = embed_job(Pretends(), paths, tmp_path, part_rows=10, embedder=bad, on_progress=told.append)
    assert (report.embedded, report.failed, len(report.failures)) == (0, 100, 20)
    assert sum(at.wrote for at in told) == 10
    assert [path.name for path in tmp_path.glob("_failures*")] == ["_failures.jsonl"]


SLOW = """
import json, sys, time
import clapkit
from clapkit.runtime.job import embed_here, embed_job

def slow(paths, *, windows):
    for result in embed_here(clap, workers=1)(paths, windows=windows):
        time.sleep(0.02)
        yield result

folder, corpus, out = sys.argv[1:]
clap = clapkit.load(folder)
print("ready", flush=True)
embed_job(clap, json.loads(corpus), out, part_rows=7, embedder=slow)
print("finished", flush=True)
"""


@pytest.mark.timeout(600)
def test_killed_five_times(tiny_run, corpus, expected, tmp_path):
    """SIGKILL at random moments, also while a part is being written; the last run is left alone."""
    out, chance = tmp_path / "v", random.Random(5)
    command = [sys.executable, "-c", SLOW, str(tiny_run.path), json.dumps(corpus), str(out)]
    for attempt in range(6):
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPOSITORY) as process:
            assert process.stdout.readline() == b"ready\n"
            if attempt < 5:
                parts = set(out.glob("part-*")) if out.exists() else set()
                deadline = time.monotonic() + 60
                while set(out.glob("part-*")) == parts and process.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.001)
                time.sleep(chance.uniform(0, 0.1))
                process.kill()
                process.wait()
            else:
                assert process.stdout.read() == b"finished\n"
    check_whole(out, corpus, expected)
