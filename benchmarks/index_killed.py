"""A library killed again and again while it is made: nothing lost, nothing twice, searched after every kill.

    python benchmarks/index_killed.py RUN --json benchmarks/results/index_killed.json

Writes a corpus (5,000 files of 1 to 3 s, 50 of them broken) and runs `clapkit index` on it with SIGKILL at random
moments: while it starts, while it embeds, while it writes. After each kill the library is opened by another process's
eyes, all its rows are read and searched, and some files are changed, moved and deleted. The last run ends by itself;
then the library is compared with one that was made of the same files undisturbed. Prints JSON, and ends with status 1
when anything is lost, twice, stale or different. A tiny model (`clapkit train soundworld --scale tiny ...`) makes it
minutes. Needs a POSIX system.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from machine import described

from clapkit.errors import SearchIndexError
from clapkit.search.store import Store

RATE_HZ = 16000


class Corpus:
    """Noise, each file another, in folders of 500; some are no sound."""

    def __init__(self, folder: Path, *, files: int, broken: int, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._noise = (0.1 * self._rng.standard_normal(8 * RATE_HZ)).astype(np.float32)
        self._made = 0
        self.folder = folder
        for number in range(files):
            self.add(broken=number % (files // broken) == 0 if broken else False)

    def add(self, path: Path | None = None, *, broken: bool = False) -> None:
        """A file that was not there before, or another sound under the same name."""
        self._made += 1
        path = path or self.folder / f"{self._made // 500:03d}" / f"{self._made:06d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        start, length = int(self._rng.integers(0, 5 * RATE_HZ)), int(self._rng.uniform(1, 3) * RATE_HZ)
        if broken:
            path.write_bytes(b"no sound")
        else:
            soundfile.write(path, self._noise[start : start + length], RATE_HZ, subtype="PCM_16")

    def disturb(self, count: int) -> None:
        """Change, move and delete some files, and add as many as were deleted."""
        good = [path for path in sorted(self.folder.rglob("*.wav")) if path.stat().st_size > 100]
        chosen = [good[int(n)] for n in self._rng.choice(len(good), 3 * count, replace=False)]
        for path in chosen[:count]:
            self.add(path)
        for path in chosen[count : 2 * count]:
            path.rename(path.with_name(f"moved-{self._made}-{path.name}"))
        for path in chosen[2 * count :]:
            path.unlink()
            self.add()


def looked_at(library: Path) -> dict[str, Any]:
    """What a reader finds: rows, files, how long opening and a search of all rows took. Ends it where that fails."""
    begun = time.monotonic()
    try:
        view = Store.open(library).view
    except SearchIndexError as error:
        if not (library / "store.json").exists():  # killed before there was a library
            return {"rows": 0, "files": 0, "seconds": 0.0}
        raise SystemExit(f"not readable after a kill: {error}") from error
    if len(view):
        query_1D = np.ones((1, view.space.dimension))
        (ids,), _ = view.search(query_1D, len(view))
        if len(set(ids)) != len(view):
            raise SystemExit(f"{len(view)} rows, and {len(set(ids))} of them are found")
    return {"rows": len(view), "files": len(view.files()), "seconds": round(time.monotonic() - begun, 2)}


def run_killed(command: list[str], *, chance: random.Random) -> float | None:
    """Start the command and kill it at a random moment; how long it lived, or None where it was done before."""
    pieces, started = chance.choice((0, 0, 1, 1, 2)), time.monotonic()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        if pieces == 0:
            limit_s = chance.uniform(0.5, 15.0)
            try:
                process.wait(limit_s)
            except subprocess.TimeoutExpired:
                process.kill()
            return None if process.returncode == 0 else time.monotonic() - started
        for line in process.stderr:
            pieces -= "files/s" in line  # one line a piece that was written
            if pieces == 0:
                break
        time.sleep(chance.uniform(0.0, 1.0))
        done = process.poll() is not None
        process.kill()
    return None if done else time.monotonic() - started


def contents(library: Path) -> dict[tuple[str, int], tuple[str, float, np.ndarray]]:
    """(file, window) -> content hash, time, vector of all rows; a row that comes twice ends it."""
    view = Store.open(library).view
    (ids,), _ = view.search(np.ones((1, view.space.dimension)), len(view))
    found = {}
    for row, vector_D in zip(view.rows(ids), view.vectors(ids), strict=True):
        key = row.file, row.window
        if key in found:
            raise SystemExit(f"twice: {key}")
        found[key] = row.content_hash, row.mtime_s, vector_D
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="model")
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--broken", type=int, default=50)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--disturbed", type=int, default=20, help="files changed, moved, deleted after each kill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        told = measure(given, Path(folder))
    text = json.dumps({**told, "machine": described("torch", "lancedb")}, indent=2)
    print(text)
    if given.json:
        given.json.write_text(text + "\n", encoding="utf-8")
    good = not (told["lost"] or told["too_many"] or told["stale"]) and told["greatest_difference"] <= 1e-3
    sys.exit(0 if good and told["kills"] == given.kills else 1)


def measure(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    corpus = Corpus(folder / "corpus", files=given.files, broken=given.broken, seed=given.seed)
    command = [sys.executable, "-m", "clapkit", "index", str(corpus.folder), "--model", given.run, "--out"]
    killed, begun, chance, after = [*command, str(folder / "killed")], time.monotonic(), random.Random(given.seed), []
    finished = 0
    while len(after) < given.kills:
        lived_s = run_killed(killed, chance=chance)
        if lived_s is None:  # it was done: more to do for the next
            finished += 1
        else:
            after.append({"lived_s": round(lived_s, 1), **looked_at(folder / "killed")})
        corpus.disturb(given.disturbed if lived_s is not None else given.files // 10)
    last = subprocess.run(killed, capture_output=True, text=True, check=True)
    seconds = time.monotonic() - begun
    subprocess.run([*command, str(folder / "whole")], capture_output=True, text=True, check=True)
    found, expected = contents(folder / "killed"), contents(folder / "whole")
    both = found.keys() & expected.keys()
    there = {path.as_posix(): os.stat(path).st_mtime for path in corpus.folder.rglob("*.wav")}
    return {
        "files": given.files,
        "broken": given.broken,
        "kills": len(after),
        "finished_in_between": finished,
        "after_each_kill": after,
        "seconds_with_kills": round(seconds, 1),
        "said_at_the_end": " ".join(last.stderr.split())[-200:],
        "rows": len(found),
        "lost": len(expected.keys() - found.keys()),
        "too_many": len(found.keys() - expected.keys()),
        "stale": sum(found[key][:2] != expected[key][:2] or there.get(key[0]) != found[key][1] for key in both),
        "greatest_difference": float(max(np.abs(found[key][2] - expected[key][2]).max() for key in both)),
    }


if __name__ == "__main__":
    main()
