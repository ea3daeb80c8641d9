"""clapkit index killed (-9) three times while it indexes 300 files; the large case is benchmarks/index_killed.py."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

import clapkit as library

pytest.importorskip("lancedb")

from clapkit.errors import SearchIndexError
from clapkit.search.store import Store

FILES, KILLS = 300, 3
# The command as it is, but for smaller pieces: so many rows are written every 30 s or 2,048 rows otherwise.
COMMAND = """
import sys
from functools import partial
from clapkit.search.indexing import update as module
module.update = partial(module.update, chunk_rows=64)
from clapkit.cli.main import main
main()
"""


def counted(lib):
    """How many files a reader finds, after a search that compares every row."""
    try:
        view = Store.open(lib).view
    except SearchIndexError:  # it was killed before there was a library
        return 0
    ids, _ = view.search(np.ones((1, view.space.dimension)), 10_000)
    rows = view.rows(ids[0])
    assert len(rows) == len(view) == len({(row.file, row.window) for row in rows})
    for file in view.files():
        assert [row.window for row in view.windows_of(file)] == [0, 1, 2], "whole files only"
    return len(view.files())


@pytest.mark.timeout(900)
def test_killed_nothing_is_lost_or_twice_and_it_can_be_searched_between(tiny_run, tmp_path, rng):
    folder, lib = tmp_path / "sounds", tmp_path / "lib"
    folder.mkdir()
    for n in range(FILES):
        soundfile.write(folder / f"{n:03d}.wav", 0.1 * rng.standard_normal(8000), 8000)
    words = [
        "index",
        str(folder),
        "--model",
        str(tiny_run.path),
        "--out",
        str(lib),
        "--device",
        "cpu",
        "--workers",
        "1",
    ]
    command, before = [sys.executable, "-c", COMMAND, *words], 0
    for kill in range(KILLS):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        for line in process.stderr:  # a line a piece; the last of them is killed while it begins
            if "files/s" in line:
                break
        time.sleep(float(rng.uniform(0, 0.05)))
        process.kill()
        process.communicate()
        now = counted(lib)
        assert now > before, f"what was written before kill {kill} stays, and more has come"
        before = now
    assert before < FILES, "it was killed while there was work left"
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{FILES - before} embedded, 0 skipped, {before} unchanged" in " ".join(done.stderr.split())
    assert counted(lib) == FILES
    clap, view = library.load(tiny_run.path, device="cpu"), Store.open(lib).view
    path = (folder / "123.wav").as_posix()
    vectors = view.vectors([row.id for row in view.windows_of(path)])
    np.testing.assert_allclose(vectors, clap.embed_windows(path)[0], atol=2e-3)
