"""A library made by workers of a Ray cluster, one of them killed on the way, against the one made without them.

    python benchmarks/index_ray.py RUN --data FOLDER --json benchmarks/results/index_ray.json

Copies sounds of FOLDER, evenly chosen, with five files that are none, and runs the command `clapkit index` on them
three times: by itself, with `--engine ray --workers 2`, and so once more with SIGKILL for one of the two workers in
the middle of the work (half of what the run before took from its first embedding on). One thread each. The libraries
are read as any reader does, and compared row by row. Then the sounds are changed, and the last library is brought up
to date by workers again. Ends with status 1 where a row is lost, twice or different, a vector is further off than
half a unit of the last place that float16 keeps of 1, a failure is not told, or a process is left over. POSIX only.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from machine import described

from clapkit.search.store import Store

MARK = "CLAPKIT_BENCHMARK_RUN"
NEAR = 2.0**-11
WORKERS = ("--engine", "ray", "--workers", "2")


def copied(data: Path, folder: Path, count: int) -> None:
    """`count` of the sounds below `data`, each nth, and five files of text."""
    found = sorted(path for path in data.rglob("*") if path.suffix in (".wav", ".flac", ".ogg", ".opus", ".mp3"))
    folder.mkdir()
    for n in np.linspace(0, len(found) - 1, count).astype(int):
        shutil.copy(found[n], folder / f"{n:06}-{found[n].name}")
    for n in range(5):
        (folder / f"broken{n}.wav").write_text("no sound", encoding="utf-8")


def at_work(main: psutil.Process) -> list[psutil.Process]:
    """The workers that hold a model and have a task."""
    found = []
    for process in main.children(recursive=True):
        try:
            if "ray::_Worker.embed" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:  # it has ended
            continue
    return found


def run(command: list[str], *, kill_after_s: float | None = None) -> dict[str, Any]:
    """The command, its seconds, those from the first embedding on, and the workers that were killed."""
    mark = f"{os.getpid()}-{time.monotonic_ns()}"  # all that it starts inherits this
    killed: list[int] = []
    begun, embedding = time.monotonic(), 0.0
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, **pipes, env={**os.environ, MARK: mark}) as process:
        main = psutil.Process(process.pid)
        while process.poll() is None:
            time.sleep(0.1)
            busy = at_work(main) if not embedding or (kill_after_s and not killed) else []
            embedding = embedding or (time.monotonic() if busy else 0.0)
            if kill_after_s and not killed and busy and time.monotonic() - embedding > kill_after_s:
                os.kill(busy[0].pid, signal.SIGKILL)
                killed.append(busy[0].pid)
        assert process.stdout is not None
        said = " ".join(process.stdout.read().split())
    if process.returncode:
        raise SystemExit(f"{command}: {said}")
    ended = time.monotonic()
    time.sleep(5.0)  # what follows a process that has ended may take a moment
    left = [" ".join(one.cmdline())[:100] for one in psutil.process_iter() if _carries(one, mark)]
    times_s = {"seconds": round(ended - begun, 1), "embedding_s": round(ended - embedding, 1) if embedding else None}
    return {**times_s, "killed": len(killed), "said": said.rsplit("┘", 1)[-1].strip(), "left_over": left}


def _carries(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(MARK) == mark
    except psutil.Error:
        return False


def contents(library: Path) -> dict[tuple[str, int], tuple[Any, np.ndarray]]:
    """(file, window) -> the row, its vector; a row that comes twice ends it."""
    view = Store.open(library).view
    (ids,), _ = view.search(np.ones((1, view.space.dimension)), len(view))
    found: dict[tuple[str, int], tuple[Any, np.ndarray]] = {}
    for row, vector_D in zip(view.rows(ids), view.vectors(ids), strict=True):
        if (row.file, row.window) in found:
            raise SystemExit(f"twice: {row.file} {row.window}")
        found[row.file, row.window] = row, vector_D
    return found


def compared(library: Path, expected: dict[tuple[str, int], tuple[Any, np.ndarray]], bad: int) -> dict[str, Any]:
    """What a library lacks, has too much of, or has otherwise."""
    found = contents(library)
    both = found.keys() & expected.keys()
    apart = [float(np.abs(found[key][1] - expected[key][1]).max()) for key in both]
    failures = json.loads((library / "failures.json").read_bytes())
    return {
        "rows": len(found),
        "files": len({file for file, _ in found}),
        "lost": len(expected.keys() - found.keys()),
        "too_many": len(found.keys() - expected.keys()),
        "other_rows": sum(found[key][0] != expected[key][0] for key in both),
        "greatest_difference": max(apart),
        "bit_identical": sum(distance == 0 for distance in apart),
        "failures_untold": bad - len(failures),
    }


def measure(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    sounds = folder / "sounds"
    copied(given.data, sounds, given.files)
    command = [sys.executable, "-m", "clapkit", "index", str(sounds), "--model", given.run, "--device", "cpu"]
    command += ["--threads", "1", "--out"]
    told: dict[str, Any] = {"files": given.files, "broken": 5}
    told["local"] = run([*command, str(folder / "local")])
    expected = contents(folder / "local")
    told["ray"] = run([*command, str(folder / "ray"), *WORKERS])
    told["ray"] |= compared(folder / "ray", expected, 5)
    told["killed"] = run([*command, str(folder / "killed"), *WORKERS], kill_after_s=told["ray"]["embedding_s"] / 2)
    told["killed"] |= compared(folder / "killed", expected, 5)
    changed = sorted(sounds.glob("[0-9]*"))
    for old, new in zip(changed[:10], changed[10:20], strict=True):
        old.rename(old.with_name(f"moved-{old.name}"))
        shutil.copy(changed[-1], new)
    (sounds / "broken0.wav").unlink()
    run([*command, str(folder / "local")])
    told["brought_up_to_date"] = run([*command, str(folder / "killed"), *WORKERS])
    told["brought_up_to_date"] |= compared(folder / "killed", contents(folder / "local"), 4)
    return told


def is_right(told: dict[str, Any]) -> bool:
    """Whether the workers made what is made without them."""
    zero = "lost", "too_many", "other_rows", "failures_untold"
    runs = told["ray"], told["killed"], told["brought_up_to_date"]
    equal = all(not any(one[name] for name in zero) and one["greatest_difference"] <= NEAR for one in runs)
    return equal and told["killed"]["killed"] == 1 and not any(one["left_over"] for one in runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="model")
    parser.add_argument("--data", type=Path, required=True, help="folder of sounds")
    parser.add_argument("--files", type=int, default=300)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    machine = described("torch", "ray", "lancedb")
    with tempfile.TemporaryDirectory() as folder:
        told = measure(given, Path(folder))
    text = json.dumps({**told, "machine": machine}, indent=2)
    print(text)
    if given.json:
        given.json.write_text(text + "\n", encoding="utf-8")
    sys.exit(0 if is_right(told) else 1)


if __name__ == "__main__":
    main()
