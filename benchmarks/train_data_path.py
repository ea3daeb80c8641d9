"""The data path of training: what decoding into the cache costs, and how long steps wait for their batches.

Run:   python benchmarks/train_data_path.py --data DATA/esc50/manifest.csv [--clips 512] [--epochs 4] [--threads 2]

first epoch   `cache_audio` into an empty folder, clips of 5 s in Ogg Opus at 48 kHz, decoded to 32 kHz in processes as
              training does it. Core time is that of this process and of all decoders, their start included.
later epochs  The recipe `contrastive` on the same clips, decoded before; wait_share of log.jsonl, the share of the time
              in which a step had no batch yet. Steps of the first epoch are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import described

from clapkit.audio.mel import ECONOMICAL
from clapkit.cookbook import find_recipe
from clapkit.data.cache import cache_audio
from clapkit.data.clip import Clip
from clapkit.data.manifest import read
from clapkit.training.loop import train

RESULTS = Path(__file__).parent / "results" / "train_data_path.json"


def core_s() -> float:
    """Processor seconds of this process and of its children that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def decoding(clips: list[Clip], folder: Path) -> dict[str, Any]:
    started_s, wall_s = core_s(), time.perf_counter()
    audio = cache_audio(clips, rate_hz=ECONOMICAL.rate_hz, folder=folder)
    used_s, wall_s = core_s() - started_s, time.perf_counter() - wall_s
    seconds = sum(audio.length_samples(i) for i in range(len(audio))) / audio.rate_hz
    return {
        "clips": len(audio),
        "mean_clip_s": round(seconds / len(audio), 2),
        "core_ms_per_clip": round(1e3 * used_s / len(audio), 2),
        "wall_ms_per_clip": round(1e3 * wall_s / len(audio), 2),
    }


def waiting(clips: list[Clip], out: Path, *, epochs: int) -> dict[str, Any]:
    recipe = find_recipe("contrastive").with_set("train.log_every", 1)
    each = len(clips) // recipe.batch.clips
    run = train(recipe.with_set("train.steps", each * epochs), clips, out=out, device="cpu")
    assert run is not None, "no step was asked to be the last"
    later = [record for record in run.log() if "wait_share" in record and record["step"] >= each]
    shares = np.array([record["wait_share"] for record in later])
    times_s = recipe.batch.clips / np.array([record["clips_per_s"] for record in later])
    return {
        "steps": len(later),
        "batch_clips": recipe.batch.clips,
        "clips_per_s": round(recipe.batch.clips * len(later) / float(times_s.sum()), 1),
        "wait_share": round(float((shares * times_s).sum() / times_s.sum()), 4),
        "largest_wait_share_of_a_step": round(float(shares.max()), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="manifest of ESC-50")
    parser.add_argument("--clips", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clips = list(read(arguments.data).clips)[: arguments.clips]
    with tempfile.TemporaryDirectory() as scratch:
        result: dict[str, Any] = {"first_epoch": decoding(clips, Path(scratch) / "cache")}
        print(result, flush=True)
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        result["later_epochs"] = waiting(clips, Path(scratch) / "run", epochs=arguments.epochs)
        print(result["later_epochs"], flush=True)
    result |= {"threads": arguments.threads, "machine": described("torch", "av", "soundfile", "soxr")}
    arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
