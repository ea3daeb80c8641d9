"""A big job on a local Ray cluster: one worker against two, and two of which one is killed in the middle.

    python benchmarks/embed_job_ray.py --json benchmarks/results/embed_job_ray.json

Clips of 10 s (16-bit WAV, 44.1 kHz) through HTSAT-tiny with random weights, one thread a worker. The time is that of
the whole job once the cluster runs: workers that start, import and load the model, and parts that are written, count.
A worker has a decoder process beside its thread: where there are two processors, one worker takes 1.1 of them.
One worker and two take turns, round by round, and the best of each counts. Ends with status 1 when a vector is missing,
stands twice or differs by more than 1e-6, or when two workers are less than 1.7 times as quick.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet
import ray
import soundfile
from embed_vs_transformers import write_model
from machine import described

import clapkit
from clapkit.runtime.cluster import RayWorkers
from clapkit.runtime.job import JobProgress, embed_job

RATE_HZ, SECONDS = 44_100, 10
LEAST_RATIO = 1.7


def write_clips(folder: Path, count: int) -> list[str]:
    """Noise of falling power under a slow beat: each file its own slope and beat, so that no two vectors are equal."""
    rng = np.random.default_rng(0)
    times_s = np.arange(RATE_HZ * SECONDS) / RATE_HZ
    folder.mkdir()
    paths = [folder / f"{number:05d}.wav" for number in range(count)]
    for path in paths:
        spectrum = np.fft.rfft(rng.standard_normal(len(times_s)))
        spectrum *= np.arange(1, len(spectrum) + 1) ** -rng.uniform(0, 1)
        samples = np.fft.irfft(spectrum, len(times_s)) * (1 + np.sin(2 * np.pi * rng.uniform(0.2, 8) * times_s))
        soundfile.write(path, 0.5 * samples / np.abs(samples).max(), RATE_HZ, subtype="PCM_16")
    return [str(path) for path in paths]


class Job:
    """The same clips embedded again and again, into folders of their own."""

    def __init__(self, folder: Path, clips: int, provider: str | None) -> None:
        write_model(folder / "model")
        self.sounds = write_clips(folder / "clips", clips)
        self._load = partial(clapkit.load, str(folder / "model"), device="cpu", threads=1, provider=provider)
        self.clap = self._load()
        self._folder, self._runs = folder, 0

    def run(self, workers: int, watch: Callable[[JobProgress], None] | None = None) -> dict[str, Any]:
        """Seconds of the whole job, and the table that it wrote."""
        self._runs += 1
        out = self._folder / f"vectors{self._runs}"
        embedder = RayWorkers(self._load, pipeline_id=self.clap.pipeline_id, workers=workers, threads=1, device="cpu")
        came: list[float] = []  # when each file came

        def told(at: JobProgress) -> None:
            if at.done > len(came):
                came.append(time.perf_counter())
            if watch is not None:
                watch(at)

        started = time.perf_counter()
        report = embed_job(self.clap, self.sounds, out, embedder=embedder, on_progress=told)
        ended = time.perf_counter()
        table = pyarrow.parquet.read_table(out)
        return {
            "seconds": ended - started,
            "seconds_to_the_first": came[0] - started,
            # Files come back by the dozen: those of the first answers were done before the clock of the rate starts.
            "clips_per_s": sum(at > came[0] + 0.5 for at in came) / (came[-1] - came[0]),
            "failed": report.failed,
            "paths": table["path"].to_pylist(),
            "vectors": np.stack(table["vector"].to_numpy(zero_copy_only=False)),
        }


def killer(at_file: int, killed: list[int]) -> Callable[[JobProgress], None]:
    """Kills one worker, once, when so many files have come back."""

    def watch(at: JobProgress) -> None:
        if at.done >= at_file and not killed:
            found = [p for p in psutil.Process().children(recursive=True) if _is_worker(p)]
            os.kill(found[0].pid, signal.SIGKILL)
            killed.append(found[0].pid)

    return watch


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "ray::_Worker" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def compared(found: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    """What is lost, what is twice, and how far the vectors are apart."""
    theirs = dict(zip(expected["paths"], expected["vectors"], strict=True))
    ours = dict(zip(found["paths"], found["vectors"], strict=True))
    both = theirs.keys() & ours.keys()
    return {
        "lost": len(theirs.keys() - ours.keys()),
        "twice": len(found["paths"]) - len(ours),
        "failed": found["failed"],
        "greatest_difference": float(max(np.abs(ours[path] - theirs[path]).max() for path in both)),
        "bit_identical": sum(bool((ours[path] == theirs[path]).all()) for path in both),
    }


def measure(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    job = Job(folder, given.clips, given.provider)
    rounds: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    loads = []
    for _ in range(given.rounds):
        loads.append(round(psutil.getloadavg()[0], 2))
        for workers, done in rounds.items():
            done.append(job.run(workers))
    killed: list[int] = []
    wounded = job.run(2, killer(given.clips // 3, killed))
    one, two = (min(done, key=lambda run: run["seconds"]) for done in rounds.values())
    return {
        "clips": given.clips,
        "provider": job.clap.provider,
        "load_average_before_each_round": loads,
        "one_worker_s": [round(run["seconds"], 1) for run in rounds[1]],
        "two_workers_s": [round(run["seconds"], 1) for run in rounds[2]],
        "ratio": round(one["seconds"] / two["seconds"], 2),
        "until_the_first_files_s": [round(run["seconds_to_the_first"], 1) for run in (one, two)],
        "clips_per_s_after_them": [round(run["clips_per_s"], 2) for run in (one, two)],
        "ratio_of_these_rates": round(two["clips_per_s"] / one["clips_per_s"], 2),
        "two_against_one": compared(two, one),
        "one_of_two_killed": {"killed": len(killed), "seconds": round(wounded["seconds"], 1), **compared(wounded, one)},
    }


def is_right(told: dict[str, Any]) -> bool:
    pairs = told["two_against_one"], told["one_of_two_killed"]
    whole = all(pair["lost"] == pair["twice"] == pair["failed"] == 0 for pair in pairs)
    equal = all(pair["greatest_difference"] <= 1e-6 for pair in pairs)
    return whole and equal and told["one_of_two_killed"]["killed"] == 1 and told["ratio"] >= LEAST_RATIO


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--provider", default="torch", help="as in clapkit.load")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    machine = described("torch", "ray", "pyarrow")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        told = measure(given, Path(folder))
    ray.shutdown()
    text = json.dumps({**told, "machine": machine}, indent=2)
    print(text)
    if given.json:
        given.json.write_text(text + "\n", encoding="utf-8")
    sys.exit(0 if is_right(told) else 1)


if __name__ == "__main__":
    main()
