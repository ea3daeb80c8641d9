"""A big job killed again and again: nothing lost, nothing twice, the vectors of an undisturbed run.

    python benchmarks/embed_job_killed.py RUN --json benchmarks/results/embed_job_killed.json

Writes a corpus (5,000 files of 1 to 4 s, 50 of them broken in five ways), runs `clapkit embed` on it once to the end,
then again into another folder with SIGKILL at random moments, each followed by the same command; then compares the two
folders and prints JSON. Ends with status 1 when anything is lost, twice or different. Needs a POSIX system.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import soundfile
from machine import described

RATE_HZ = 44100


def write_corpus(folder: Path, *, files: int, broken: int) -> set[str]:
    """Noise of 1 to 4 seconds in subfolders of 500; returns the names of those that are broken, in five ways."""
    rng = np.random.default_rng(0)
    noise = (0.1 * rng.standard_normal(6 * RATE_HZ)).astype(np.float32)
    spoiled = set(rng.choice(files, broken, replace=False).tolist())
    names = set()
    for number in range(files):
        path = folder / f"{number // 500:03d}" / f"{number:06d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        start = int(rng.integers(0, 2 * RATE_HZ))
        soundfile.write(path, noise[start : start + int(rng.uniform(1, 4) * RATE_HZ)], RATE_HZ, subtype="PCM_16")
        if number in spoiled:
            names.add(str(path))
            _spoil(path, len(names) % 5)
    return names


def _spoil(path: Path, how: int) -> None:
    data = path.read_bytes()
    if how == 4:
        path.unlink()
        path.symlink_to("nowhere.wav")
    else:
        path.write_bytes((b"", b"no sound", data[: len(data) // 4], b"RIFF" + b"\xff" * 2000)[how])


def read(out: Path) -> tuple[dict[str, np.ndarray], list[str], list[str]]:
    """Vectors by path, all paths of rows, all paths of failures."""
    table = pyarrow.parquet.read_table(out)
    paths = table["path"].to_pylist()
    vectors_ND = np.stack(table["vector"].to_numpy(zero_copy_only=False))
    lines = [line for path in out.glob("_failures*.jsonl") for line in path.read_text(encoding="utf-8").splitlines()]
    return dict(zip(paths, vectors_ND, strict=True)), paths, [json.loads(line)["path"] for line in lines]


def run_killed(command: list[str], *, kills: int, whole_s: float, seed: int) -> dict[str, Any]:
    """Run the command until it ends by itself, killed `kills` times before."""
    chance = random.Random(seed)
    lived_s, begin = [], time.monotonic()
    for _ in range(kills):
        started = time.monotonic()
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            try:
                process.wait(chance.uniform(0.05, 0.25) * whole_s)  # so that some work is left after the last one
            except subprocess.TimeoutExpired:
                process.kill()
                lived_s.append(round(time.monotonic() - started, 1))
    last = subprocess.run(command, capture_output=True, text=True, check=True)
    return {
        "kills": len(lived_s),
        "killed_after_s": lived_s,
        "seconds": round(time.monotonic() - begin, 1),
        "said": last.stderr.strip().splitlines()[-1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="model folder")
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--broken", type=int, default=50)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--part-rows", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        told = measure(given, Path(folder))
    text = json.dumps({**told, "machine": described("torch", "pyarrow")}, indent=2)
    print(text)
    if given.json:
        given.json.write_text(text + "\n", encoding="utf-8")
    sys.exit(0 if is_whole(told, given) else 1)


def is_whole(told: dict[str, Any], given: argparse.Namespace) -> bool:
    """Every good file once, every broken one once among the failures, and the vectors of the undisturbed run."""
    counted = told["rows"] == given.files - given.broken and told["kills"] == given.kills
    return (
        counted
        and told["lost"] == told["twice"] == 0
        and told["failures_as_written"]
        and told["greatest_difference"] <= 1e-6
    )


def measure(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    broken = write_corpus(folder / "corpus", files=given.files, broken=given.broken)
    command = [sys.executable, "-m", "clapkit.cli.main", "embed", str(folder / "corpus"), "--model", str(given.run)]
    command += ["--part-rows", str(given.part_rows), "--out"]
    started = time.monotonic()
    subprocess.run([*command, str(folder / "whole")], check=True, stderr=subprocess.DEVNULL)
    whole_s = time.monotonic() - started
    killed = run_killed([*command, str(folder / "killed")], kills=given.kills, whole_s=whole_s, seed=given.seed)
    expected, _, _ = read(folder / "whole")
    found, paths, failures = read(folder / "killed")
    return {
        "files": given.files,
        "broken": given.broken,
        "undisturbed_s": round(whole_s, 1),
        **killed,
        "rows": len(paths),
        "lost": len(set(expected) - set(paths)),
        "twice": len(paths) - len(set(paths)),
        "failures": len(failures),
        "failures_as_written": sorted(failures) == sorted(broken),
        "parts": len(list((folder / "killed").glob("part-*"))),
        "greatest_difference": float(max(np.abs(expected[path] - found[path]).max() for path in expected)),
    }


if __name__ == "__main__":
    main()
