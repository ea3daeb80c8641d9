"""What a big job holds in memory: a recording of hours and thousands of short ones, against one short file.

    python benchmarks/embed_job_memory.py RUN --json benchmarks/results/embed_job_memory.json

Writes a corpus (one WAV file of 6 hours, 48 kHz, and 20,000 of 0.3 to 1 s), runs `clapkit embed` on a single short file
and on all, and samples the memory of the whole process tree, decoders among them. Counted is the proportional share
(PSS), in which a page that processes share counts once, where the system tells it (Linux), else the resident size. Ends
with status 1 when the job takes 2 GB more than the single file, which needs the model and the libraries too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet
import soundfile
from machine import described

LONG_RATE_HZ, SHORT_RATE_HZ = 48_000, 22_050
EVERY_S = 0.1
LIMIT_MB = 2000.0


def write_corpus(folder: Path, *, hours: float, files: int) -> None:
    """Noise: `long.wav`, and short files in subfolders of 1,000."""
    rng = np.random.default_rng(0)
    noise = (0.1 * rng.standard_normal(60 * LONG_RATE_HZ)).astype(np.float32)
    folder.mkdir(parents=True)
    with soundfile.SoundFile(folder / "long.wav", "w", LONG_RATE_HZ, 1, subtype="PCM_16") as file:
        for _ in range(round(60 * hours)):
            file.write(np.roll(noise, int(rng.integers(len(noise)))))
    for number in range(files):
        path = folder / f"{number // 1000:03d}" / f"{number:06d}.wav"
        path.parent.mkdir(exist_ok=True)
        start, length = int(rng.integers(SHORT_RATE_HZ)), int(rng.uniform(0.3, 1.0) * SHORT_RATE_HZ)
        soundfile.write(path, noise[start : start + length], SHORT_RATE_HZ, subtype="PCM_16")


def peak_mb(command: list[str]) -> dict[str, float]:
    """Run a command; the greatest memory of all its processes together in MB, and how long it took."""
    started, peak = time.monotonic(), 0.0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        root = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, tree_mb(root))
            time.sleep(EVERY_S)
    if process.returncode:
        raise SystemExit(f"exit status {process.returncode}: {' '.join(command)}")
    return {"peak_mb": round(peak, 1), "seconds": round(time.monotonic() - started, 1)}


def tree_mb(root: psutil.Process) -> float:
    total = 0
    with suppress(psutil.Error):
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.Error):  # it has ended meanwhile
                memory = process.memory_full_info()
                total += getattr(memory, "pss", memory.rss)
    return total / 1e6


def measure(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    corpus = folder / "corpus"
    write_corpus(corpus, hours=given.hours, files=given.files)
    command = [sys.executable, "-m", "clapkit.cli.main", "embed", "--model", str(given.run), "--out"]
    one = peak_mb([*command, str(folder / "one"), str(corpus / "000" / "000000.wav")])
    job = peak_mb([*command, str(folder / "all"), str(corpus)])
    rows = pyarrow.parquet.read_table(folder / "all", columns=["path", "duration_s"])
    return {
        "hours": given.hours,
        "short_files": given.files,
        "rows": rows.num_rows,
        "longest_s": max(rows["duration_s"].to_pylist()),
        "one_short_file": one,
        "job": job,
        "beyond_mb": round(job["peak_mb"] - one["peak_mb"], 1),
        "counted": "PSS" if hasattr(psutil.Process().memory_full_info(), "pss") else "RSS",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="model folder")
    parser.add_argument("--hours", type=float, default=6.0)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        told = measure(given, Path(folder))
    text = json.dumps({**told, "machine": described("torch", "pyarrow")}, indent=2)
    print(text)
    if given.json:
        given.json.write_text(text + "\n", encoding="utf-8")
    sys.exit(0 if told["rows"] == given.files + 1 and told["beyond_mb"] < LIMIT_MB else 1)


if __name__ == "__main__":
    main()
