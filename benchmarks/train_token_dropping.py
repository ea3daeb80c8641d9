"""What leaving out 60 % of the tokens gains in training speed, and what it costs in zero-shot accuracy.

Run:   python benchmarks/train_token_dropping.py speed [--threads 2] [--seconds 100]
       python benchmarks/train_token_dropping.py accuracy --data DATA/esc50/manifest.csv --work RUNS [--steps 160]

speed      The same patch transformer (vit.small), the same batches of 64 clips. A step is what the training loop does:
           mel, tower, InfoNCE against cached text vectors, backward, clipping, AdamW. Arms take turns step by step,
           so that other work slows both alike; the median step counts, and the interval of the ratio is a bootstrap of
           its steps. "tower" is the same on ready mels.
accuracy   The recipe `contrastive` with that tower, equal steps and seeds, trained on folds 1 and 2 of ESC-50 and read
           on fold 3 with all tokens. The difference of the arms is paired clip by clip and averaged over seeds; its
           interval resamples recordings. Interrupted, it goes on where it was.
Both write into benchmarks/results/train_token_dropping.json, each its own part.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import described
from train_turns import in_turns, ratio, write_part

import clapkit
from clapkit.audio.mel import ECONOMICAL
from clapkit.cookbook import find_recipe
from clapkit.data.batches import Batch
from clapkit.data.manifest import read
from clapkit.evaluation.zero_shot import class_vectors
from clapkit.heads.projection import Linear
from clapkit.model import DualEncoder, Windowing
from clapkit.objectives.contrast import InfoNCE
from clapkit.spec import derive, spec
from clapkit.text.prompts import DEFAULT
from clapkit.towers import vit
from clapkit.train_settings import TrainSettings
from clapkit.training.loop import train
from clapkit.training.optim import build_optimizer
from clapkit.training.step import How, batch_features, take_step

RESULTS = Path(__file__).parent / "results" / "train_token_dropping.json"
DROPPED, CLIPS, DIMENSION = 0.6, 64, 384
ARMS = {"all tokens": 0.0, "60 % dropped": DROPPED}


def model_of(clip_s: float) -> DualEncoder:
    torch.manual_seed(0)
    parts: dict[str, Any] = {"audio": vit.small, "text": None, "audio_head": spec(Linear), "text_head": None}
    windowing = Windowing(window_s=clip_s, hop_s=clip_s / 2)
    return DualEncoder(frontend=ECONOMICAL, dimension=DIMENSION, windowing=windowing, **parts).train()


def noise(clip_s: float) -> Batch:
    rng = np.random.default_rng(0)
    samples_BN = 0.1 * rng.standard_normal((CLIPS, round(clip_s * ECONOMICAL.rate_hz)), dtype=np.float32)
    return Batch(
        step=0,
        ids=tuple(f"clip{b}" for b in range(CLIPS)),
        samples_BN=samples_BN,
        lengths_B=np.full(CLIPS, samples_BN.shape[1]),
        texts=tuple(f"text {b}" for b in range(CLIPS)),
        soft_target_BU=np.eye(CLIPS, dtype=np.float32),
    )


class Arm:
    """One share of dropped tokens, with a model and an optimizer of its own."""

    def __init__(self, *, dropped: float, clip_s: float, precision: str) -> None:
        self.model, self.batch = model_of(clip_s), noise(clip_s)
        self.optimizer = build_optimizer(self.model, TrainSettings(lr=1e-4))
        texts_UD = torch.nn.functional.normalize(torch.randn(CLIPS, DIMENSION), dim=-1)
        self.how = How(lambda texts: texts_UD[: len(texts)], precision=precision, drop_tokens=dropped)
        self.features = batch_features(self.model, self.batch, ())
        self.tokens = self.model.audio.token_count(self.features.values.shape[1])

    def step(self, number: int) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        take_step(self.model, InfoNCE(), replace(self.batch, step=number), self.how)
        torch.nn.utils.clip_grad_norm_([p for _, p in self.model.learnt()], 1.0)
        self.optimizer.step()

    def tower_step(self, number: int) -> None:
        """Forward and backward of the tower alone, on ready mels."""
        kept = round(self.tokens * (1 - self.how.drop_tokens))
        keep = torch.rand(CLIPS, self.tokens).argsort(1)[:, :kept] if kept < self.tokens else None
        with torch.autocast("cpu", torch.bfloat16, enabled=self.how.precision == "bf16"):
            summary_BD = self.model.audio(self.features, keep).summary_BD
        summary_BD.float().square().mean().backward()


def speed(arguments: argparse.Namespace, told: Callable[[dict[str, Any]], None]) -> None:
    torch.set_num_threads(arguments.threads)
    cases = [(clip_s, precision) for clip_s in (5.0, 10.0) for precision in ("fp32", "bf16")]
    rows = []
    for clip_s, precision in cases:
        arms = {name: Arm(dropped=share, clip_s=clip_s, precision=precision) for name, share in ARMS.items()}
        half_s = arguments.seconds / len(cases) / 2
        steps = in_turns({name: arm.step for name, arm in arms.items()}, budget_s=half_s)
        towers = in_turns({name: arm.tower_step for name, arm in arms.items()}, budget_s=half_s)
        whole, fewer = arms
        tokens = arms[whole].tokens
        row: dict[str, Any] = {"clip_s": clip_s, "precision": precision, "tokens": tokens, "rounds": len(steps[whole])}
        row["clips_per_s"] = {name: round(CLIPS / float(np.median(times)), 1) for name, times in steps.items()}
        row["step"], row["tower"] = (ratio(took[whole], took[fewer]) for took in (steps, towers))
        rows.append(row)
        print(row, flush=True)
        machine = described("torch", "numpy")
        told({"threads": arguments.threads, "batch_clips": CLIPS, "rows": rows, "machine": machine})


def hits_of(folder: Path, test: list[clapkit.Clip]) -> list[int]:
    """1 for each clip whose class is found."""
    names = sorted({str(clip.label) for clip in test})
    clap = clapkit.load(folder, device="cpu")
    scores_NC = clap.embed_audio([clip.audio for clip in test]) @ class_vectors(clap.embed_text, names, [DEFAULT]).T
    return [int(names[i] == clip.label) for i, clip in zip(scores_NC.argmax(1), test, strict=True)]


def resampled(values_SN: np.ndarray, recordings: list[str]) -> dict[str, float]:
    """Mean over seeds and clips, with a 95 % interval over recordings."""
    names, group_N = np.unique(recordings, return_inverse=True)
    of_clip_N = values_SN.mean(0)
    sums_G = np.bincount(group_N, weights=of_clip_N)
    sizes_G = np.bincount(group_N)
    rows = np.random.default_rng(0).integers(len(names), size=(5000, len(names)))
    low, high = np.percentile(sums_G[rows].sum(1) / sizes_G[rows].sum(1), [2.5, 97.5])
    return {"mean": round(float(of_clip_N.mean()), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def accuracy(arguments: argparse.Namespace, told: Callable[[dict[str, Any]], None]) -> None:
    torch.set_num_threads(arguments.threads)
    clips = read(arguments.data, splits={"split": ["fold1", "fold2"]}).clips
    test = list(read(arguments.data, splits={"split": ["fold3"]}).clips)
    recordings = [str(clip.meta["freesound_id"]) for clip in test]
    base = find_recipe("contrastive")
    recipe = base.but(model=derive(base.model, audio=vit.small)).with_set("train.steps", arguments.steps)
    recipe = recipe.with_set("train.lr", 1e-3)
    hits: dict[str, list[list[int]]] = {name: [] for name in ARMS}
    for seed in range(arguments.seeds):
        for name, share in ARMS.items():
            folder = Path(arguments.work) / f"drop{share:g}_seed{seed}_steps{arguments.steps}"
            found = folder / "hits.json"
            if not found.exists():
                if not (folder / "model").exists():
                    arm = recipe.with_set("train.seed", seed).with_set("train.drop_tokens", share)
                    train(arm, clips, out=folder, resume=True, device="cpu")
                found.write_text(json.dumps(hits_of(folder, test)), encoding="utf-8")
            hits[name].append(json.loads(found.read_text(encoding="utf-8")))
            print(f"seed {seed}, {name}: {np.mean(hits[name][-1]):.4f}", flush=True)
        every, fewer = (np.array(rows, np.float64) for rows in hits.values())
        difference = resampled(fewer - every, recordings)
        told(
            {
                "steps": arguments.steps,
                "batch_clips": base.batch.clips,
                "trained_on": "folds 1 and 2",
                "read_on": f"fold 3, {len(test)} clips",
                "of_each_seed": {n: [round(float(np.mean(r)), 4) for r in rows] for n, rows in hits.items()},
                "accuracy": {name: resampled(np.array(rows, np.float64), recordings) for name, rows in hits.items()},
                "dropped_minus_all": difference,
                "loss_beyond_interval": difference["high"] < 0,
                "machine": described("torch", "numpy"),
            }
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("speed", "accuracy"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=100.0, help="time for all measurements of speed")
    parser.add_argument("--data", help="manifest of ESC-50")
    parser.add_argument("--work", help="folder for the runs")
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.part == "accuracy" and not (arguments.data and arguments.work):
        parser.error("accuracy reads --data and writes its runs into --work")

    told = partial(write_part, arguments.json, arguments.part)
    if arguments.part == "speed":
        speed(arguments, told)
    else:
        accuracy(arguments, told)


if __name__ == "__main__":
    main()
