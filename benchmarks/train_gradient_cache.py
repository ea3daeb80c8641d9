"""A contrastive batch of thousands of clips in the memory of 64: what the gradient cache holds, and what it costs.

Run:   python benchmarks/train_gradient_cache.py [--threads 2] [--sizes 64,512,2048,8192] [--repeats 3] [--plot FILE]

Clips of the sound world, 4 s at 32 kHz: 128 of them, each row of a batch one of these at another place and level. The
model is the residual network of the recipe `soundworld`, in bf16, with cached text vectors and batch norm over
micro-batches.

memory   Each batch size in processes of its own, of which the median counts. Counted is what a step adds to the memory
         of the process: its peak resident set (VmHWM of Linux, set back before the step) less the resident set before
         it, when model, sounds, texts and targets are there. That is more than autograd holds: temporaries, workspaces
         of kernels and what malloc keeps are in it, as a memory limit sees them. Weights are not in it, gradients are;
         nor are pages of libraries that are read for the first time ("file_mib"): they are a copy of a file, which the
         system drops when it needs room, and the losses of a large batch call more of them. Plain steps without the
         cache stand beside it, up to --plain-up-to clips: what malloc keeps grows over the first steps, and a step of
         8,192 clips through the cache is 128 such in a row, so as many are taken; "first_step_mib" is the first.
time     One process, in turns: a step of --timed clips through the cache, and plain steps of 64 for as many clips.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import described
from train_turns import in_turns, ratio

from clapkit.audio.mel import ECONOMICAL
from clapkit.audio.resample import resample
from clapkit.building.soundworld import World
from clapkit.data.batches import Batch
from clapkit.heads.projection import Linear
from clapkit.model import DualEncoder, Windowing
from clapkit.objectives.contrast import InfoNCE
from clapkit.spec import spec
from clapkit.towers.resnet import ResNetTower
from clapkit.training.step import How, take_step

RESULTS = Path(__file__).parent / "results" / "train_gradient_cache.json"
MICRO, CLIP_S, DIMENSION, DISTINCT = 64, 4.0, 384, 128
PLAIN_STEPS = 128  # of 64 clips


class Bench:
    """A model, and batches of any size from the same few clips."""

    def __init__(self, clips: int) -> None:
        torch.manual_seed(0)
        parts: dict[str, Any] = {"audio": spec(ResNetTower, width=32), "audio_head": spec(Linear)}
        windowing = Windowing(window_s=CLIP_S, hop_s=CLIP_S)
        self.model = DualEncoder(
            frontend=ECONOMICAL, text=None, text_head=None, dimension=DIMENSION, windowing=windowing, **parts
        ).train()
        self.samples_BN = rows_of(clips, samples=round(CLIP_S * ECONOMICAL.rate_hz))
        self.texts_UD = torch.nn.functional.normalize(torch.randn(clips, DIMENSION), dim=-1)
        self.target_BU = np.eye(clips, dtype=np.float32)

    def step(self, *, clips: int, micro_batch: int | None) -> float:
        """Seconds of a step on the first `clips`."""
        batch = Batch(
            step=0,
            ids=tuple(f"clip{b}" for b in range(clips)),
            samples_BN=self.samples_BN[:clips],
            lengths_B=np.full(clips, self.samples_BN.shape[1]),
            texts=tuple(str(b) for b in range(clips)),
            soft_target_BU=np.ascontiguousarray(self.target_BU[:clips, :clips]),
        )
        how = How(self.encode_texts, precision="bf16", micro_batch=micro_batch, batch_norm="microbatch")
        self.model.zero_grad(set_to_none=True)
        started = time.perf_counter()
        take_step(self.model, InfoNCE(), batch, how)
        return time.perf_counter() - started

    def encode_texts(self, texts: Any) -> torch.Tensor:
        return self.texts_UD[int(texts[0]) : int(texts[-1]) + 1]


def rows_of(clips: int, *, samples: int) -> np.ndarray:
    """[clips, samples] float32, the same for every number of clips as far as it goes."""
    world = World()
    rng = np.random.default_rng(0)
    sounds = []
    for index in range(min(DISTINCT, clips)):
        sound = np.asarray(world.generate(index).audio, np.float32)
        sounds.append(resample(sound, world.rate_hz, ECONOMICAL.rate_hz))
    rows_BN = np.empty((clips, samples), np.float32)
    for row_N in rows_BN:
        sound = sounds[int(rng.integers(len(sounds)))]
        first = int(rng.integers(max(1, len(sound) - samples)))
        row_N[:] = np.resize(sound[first : first + samples], samples) * rng.uniform(0.5, 1.0)
    return rows_BN


def memory(field: str) -> float:
    """MiB that the process holds ("VmRSS") or has held at most ("VmHWM")."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}: memory is measured on Linux alone")


def memory_of(clips: int, micro_batch: int | None) -> dict[str, Any]:
    bench = Bench(clips)
    if hasattr(ctypes.CDLL(None), "malloc_trim"):  # what making the sounds has left behind would hide what is needed
        ctypes.CDLL(None).malloc_trim(0)
    before, files = memory("VmRSS"), memory("RssFile")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts anew
    seconds = bench.step(clips=clips, micro_batch=micro_batch)
    first = memory("VmHWM") - before - (memory("RssFile") - files)
    if micro_batch is None:
        seconds = min(
            bench.step(clips=clips, micro_batch=None) for _ in range(max(1, PLAIN_STEPS * MICRO // clips - 1))
        )
    files = memory("RssFile") - files
    return {
        "clips": clips,
        "micro_batch": micro_batch,
        "step_mib": round(memory("VmHWM") - before - files, 1),
        "file_mib": round(files, 1),
        "first_step_mib": round(first, 1),
        "before_mib": round(before, 1),
        "seconds": round(seconds, 2),
    }


def time_of(clips: int, *, budget_s: float) -> dict[str, Any]:
    bench = Bench(clips)

    def plain(number: int) -> None:
        for _ in range(clips // MICRO):
            bench.step(clips=MICRO, micro_batch=None)

    def cached(number: int) -> None:
        bench.step(clips=clips, micro_batch=MICRO)

    took = in_turns({"plain": plain, "cached": cached}, budget_s=budget_s)
    each_ms = {name: round(1e3 * float(np.median(times)) / clips, 3) for name, times in took.items()}
    return {
        "clips": clips,
        "rounds": len(took["plain"]),
        "ms_per_clip": each_ms,
        **ratio(took["cached"], took["plain"]),
    }


def child(*arguments: str) -> dict[str, Any]:
    found = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    told: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    print(told, flush=True)
    return told


def repeated(times: int, *arguments: str) -> dict[str, Any]:
    """The row whose memory is the median: what malloc keeps differs by 25 MiB from one process to the next."""
    found = sorted((child(*arguments) for _ in range(times)), key=lambda row: row["step_mib"])
    return {**found[len(found) // 2], "step_mib_of_all": [row["step_mib"] for row in found]}


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5.5, 3.4))
    for micro_batch, label in ((None, "plain"), (MICRO, f"gradient cache, {MICRO} clips at a time")):
        mine = [row for row in rows if row["micro_batch"] == micro_batch]
        axes.plot([r["clips"] for r in mine], [r["step_mib"] for r in mine], marker="o", label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set(xlabel="clips in the contrastive batch", ylabel="MiB that a step adds")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sizes", default="64,512,2048,8192")
    parser.add_argument("--plain-up-to", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3, help="processes for each memory figure")
    parser.add_argument("--timed", type=int, default=1024)
    parser.add_argument("--seconds", type=float, default=60.0, help="of the timing")
    parser.add_argument("--parts", default="memory,time")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--child", nargs=3, metavar=("PART", "CLIPS", "MICRO"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.child:
        part, clips, micro = arguments.child[0], int(arguments.child[1]), int(arguments.child[2]) or None
        found = memory_of(clips, micro) if part == "memory" else time_of(clips, budget_s=arguments.seconds)
        print(json.dumps(found))
        return
    sizes = sorted(int(size) for size in arguments.sizes.split(","))
    if MICRO not in sizes or arguments.plain_up_to < MICRO:
        parser.error(f"--sizes and --plain-up-to have to include {MICRO}: the others are compared with it")
    result = json.loads(arguments.json.read_text(encoding="utf-8")) if arguments.json.exists() else {}
    common = ("--threads", str(arguments.threads), "--seconds", str(arguments.seconds))
    if "memory" in arguments.parts:
        plain = [size for size in sizes if size <= arguments.plain_up_to]
        wanted = [(size, 0) for size in plain] + [(size, MICRO) for size in sizes if size > MICRO]
        rows = [repeated(arguments.repeats, *common, "--child", "memory", str(s), str(m)) for s, m in wanted]
        base, largest = next(row for row in rows if row["clips"] == MICRO), rows[-1]["step_mib"]
        over = {"largest_over_64": round(largest / base["step_mib"], 3)}
        over["largest_over_first_step_of_64"] = round(largest / base["first_step_mib"], 3)
        result["memory"] = {"clip_s": CLIP_S, "rows": rows, **over}
        if arguments.plot:
            plot(rows, arguments.plot)
    if "time" in arguments.parts:
        result["time"] = child(*common, "--child", "time", str(arguments.timed), str(MICRO))
    result |= {"threads": arguments.threads, "machine": described("torch", "numpy")}
    arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
