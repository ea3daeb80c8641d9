"""Clips per second of the audio towers, in training and in inference, on this machine.

Run:   python benchmarks/towers.py [--threads 2] [--seconds 45] [--out benchmarks/results/towers_speed.json]

Input: log-mel noise of 5-second clips (64 frames/s, 64 bins). A training step is forward, backward and AdamW on a
projection of the summary, under bf16 autocast; inference is forward alone, in eval mode, under the same autocast. The
towers take turns step by step, so that other work on the machine slows all of them alike; the median step counts.
Beside wall time stands processor time, which other work hardly changes with one thread (waiting threads burn it too).
Convolutional maps are channels_last (the towers see to that). Speed only: nothing here says how well a tower learns.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from clapkit.audio.features import Features
from clapkit.heads.projection import Linear
from clapkit.spec import Spec
from clapkit.towers import mobilenet, resnet, vit

CLIP_S, FRAME_RATE_HZ, BINS = 5.0, 64.0, 64


class Duration(NamedTuple):
    """What one step took: by the clock, and of all processors together."""

    wall_s: float
    processor_s: float


@dataclass
class Contestant:
    """A tower with its optimiser, and the seconds that its steps took."""

    name: str
    part: Spec
    kept_share: float = 1.0  # of the tokens, in training
    train: list[Duration] = field(default_factory=list)
    forward: list[Duration] = field(default_factory=list)

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        self.tower = self.part.build()
        self.model = nn.ModuleList([self.tower, Linear(self.tower.width, 384)])
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=1e-4)

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.tower.parameters())

    def keep(self, batch: int) -> Tensor | None:
        """Another random share of the tokens for each clip; None when all are kept."""
        if self.kept_share == 1.0:
            return None
        tokens = self.tower.token_count(round(CLIP_S * FRAME_RATE_HZ))
        return torch.rand(batch, tokens).argsort(1)[:, : round(tokens * self.kept_share)]

    def train_step(self, features: Features) -> None:
        self.model.train()
        with torch.autocast("cpu", torch.bfloat16):
            summary_BD = self.model[1](self.tower(features, keep=self.keep(len(features.values))).summary_BD)
        summary_BD.float().square().mean().backward()
        self.optimiser.step()
        self.optimiser.zero_grad()

    @torch.no_grad()
    def forward_step(self, features: Features) -> None:
        self.model.eval()
        with torch.autocast("cpu", torch.bfloat16):
            self.model[1](self.tower(features).summary_BD)


def contestants() -> list[Contestant]:
    """One to three million parameters each."""
    return [
        Contestant("resnet.small", resnet.small),
        Contestant("resnet.base", resnet.base),
        Contestant("mobilenet.small", mobilenet.small),
        Contestant("vit.small", vit.small),
        Contestant("vit.small, half the tokens", vit.small, kept_share=0.5),
    ]


def duration(action: Callable[[Features], None], features: Features) -> Duration:
    wall_s, processor_s = time.perf_counter(), time.process_time()
    action(features)
    return Duration(time.perf_counter() - wall_s, time.process_time() - processor_s)


def measure(field_of: list[Contestant], features: Features, *, budget_s: float) -> int:
    """Rounds in which everyone takes one step of each kind, until the time is over; returns how many were counted."""
    deadline = time.perf_counter() + budget_s
    rounds = 0
    while rounds < 2 or time.perf_counter() < deadline:  # the first round warms up and is thrown away
        for one in field_of:
            train, forward = duration(one.train_step, features), duration(one.forward_step, features)
            if rounds > 0:
                one.train.append(train)
                one.forward.append(forward)
        rounds += 1
    return rounds - 1


def rows(field_of: list[Contestant], *, batch: int) -> list[dict[str, str | int | float]]:
    def rate(steps: list[Duration], which: str) -> float:
        return round(batch / statistics.median(getattr(step, which) for step in steps), 1)

    return [
        {
            "tower": one.name,
            "parameters": one.parameters,
            "train_clips_per_s": rate(one.train, "wall_s"),
            "train_clips_per_processor_s": rate(one.train, "processor_s"),
            "forward_clips_per_s": rate(one.forward, "wall_s"),
            "forward_clips_per_processor_s": rate(one.forward, "processor_s"),
        }
        for one in field_of
    ]


def show(table: list[dict[str, str | int | float]]) -> None:
    print(f"{'':28}{'':>12}{'training, clips per':>26}{'forward, clips per':>26}")
    print(f"{'tower':28}{'parameters':>12}" + f"{'second':>12}{'processor s':>14}" * 2)
    for name, parameters, *rates in (row.values() for row in table):
        print(f"{name:28}{parameters:>12,}{rates[0]:>12}{rates[1]:>14}{rates[2]:>12}{rates[3]:>14}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=45.0, help="time for all measurements together")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--note", default="", help="written into the result, e.g. what else the machine was doing")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "towers_speed.json")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    frames = round(CLIP_S * FRAME_RATE_HZ)
    mel_BTF = torch.randn(arguments.batch, frames, BINS, generator=torch.Generator().manual_seed(0)) * 20 - 40
    features = Features(mel_BTF, torch.ones(arguments.batch, frames, dtype=torch.bool))
    field_of = contestants()
    rounds = measure(field_of, features, budget_s=arguments.seconds)
    table = rows(field_of, batch=arguments.batch)

    show(table)
    result = {
        "protocol": f"{CLIP_S} s clips, batch {arguments.batch}, bf16 autocast, median of {rounds} steps in turn",
        "threads": arguments.threads,
        "machine": platform.machine(),
        "torch": torch.__version__,
        "note": arguments.note,
        "towers": table,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
