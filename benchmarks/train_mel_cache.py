"""What a mel cache saves: steps of the recipe `contrastive` at scale small, with and without it.

Run:   python benchmarks/train_mel_cache.py [--clips 256] [--clip-s 5] [--budget-s 120] [--threads 2]

The recipe's views that change samples beyond their level (TimeShift, MixClips) are left out of both arms: no cached mel
can follow them. Both make each batch and take each step in one thread, in turns, so that processor time is that of the
whole step: reading, laying out, front-end, towers, gradients, optimizer. Sounds are noise, texts random vectors.
--clip-s above 5 has every clip cut at random, where the frames at the cuts are computed in the step.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import described
from train_turns import in_turns, ratio, write_part

from clapkit.audio.mel import ECONOMICAL
from clapkit.cookbook import find_recipe
from clapkit.data.cache import CachedAudio, cache_audio
from clapkit.data.clip import Clip
from clapkit.heads.projection import Linear
from clapkit.recipe import Recipe
from clapkit.spec import derive, spec
from clapkit.towers.hf import tiny
from clapkit.training.loader import Loader
from clapkit.training.optim import build_optimizer
from clapkit.training.sound.mels import CachedMels
from clapkit.training.step import How, take_step
from clapkit.views.audio import Gain
from clapkit.views.captions import LabelPrompts
from clapkit.views.spectrogram import SpecAugment

RESULTS = Path(__file__).parent / "results" / "train_mel_cache.json"
LABELS = ("bell", "rain", "dog bark", "siren", "wind", "engine", "violin", "applause")


def decoded(count: int, folder: Path, *, clip_s: float) -> CachedAudio:
    rng = np.random.default_rng(0)
    length = round(clip_s * ECONOMICAL.rate_hz)
    clips = [
        Clip(f"clip{n}", 0.1 * rng.standard_normal(length, dtype=np.float32), label=LABELS[n % len(LABELS)])
        for n in range(count)
    ]
    return cache_audio(clips, rate_hz=ECONOMICAL.rate_hz, workers=0, folder=folder)


class Arm:
    """A model of its own and what feeds it."""

    def __init__(self, recipe: Recipe, audio: CachedAudio, mels: CachedMels | None) -> None:
        torch.manual_seed(0)
        assert recipe.model is not None
        self.model = derive(recipe.model, text=tiny, text_head=spec(Linear), dimension=64).build().train()
        parts: dict[str, Any] = {"views": recipe.views, "size": recipe.batch, "texts": recipe.texts}
        self.loader = Loader(
            audio, **parts, sampler=recipe.sampler, seed=0, mels=mels, cut_at_samples=ECONOMICAL.hop_samples
        )
        self.objective = recipe.objective
        self.optimizer = build_optimizer(self.model, recipe.train)
        vectors = torch.nn.functional.normalize(torch.randn(len(self.loader.all_texts()), 64), dim=-1)
        place = {text: n for n, text in enumerate(self.loader.all_texts())}
        self.how = How(lambda texts: vectors[[place[text] for text in texts]], self.loader.mel_views)
        self.processor_s: list[float] = []

    def step(self, number: int) -> None:
        began_s = time.process_time()
        self.optimizer.zero_grad(set_to_none=True)
        take_step(self.model, self.objective, self.loader.make(number), self.how)
        self.optimizer.step()
        self.processor_s.append(time.process_time() - began_s)


def measured(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    recipe = find_recipe("contrastive").at("small").but(views=(LabelPrompts(), Gain(), SpecAugment()))
    audio = decoded(arguments.clips, folder, clip_s=arguments.clip_s)
    recipe = recipe.with_set("train.cache_mel", True)
    assert recipe.model is not None
    frontend = derive(recipe.model, text=tiny, text_head=spec(Linear), dimension=64).build().frontend
    mels = CachedMels(audio, frontend, fill="mask", clip_samples=round(5 * audio.rate_hz), folder=folder)
    size, began_s = mels.missing_bytes, time.process_time()
    mels.prepare()
    prepared_s = time.process_time() - began_s
    arms = {"without": Arm(recipe, audio, None), "with": Arm(recipe, audio, mels)}
    took = in_turns({name: arm.step for name, arm in arms.items()}, budget_s=arguments.budget_s)
    used = {name: np.array(arm.processor_s[1:]) for name, arm in arms.items()}
    clips = recipe.batch.clips
    return {
        "clip_s": arguments.clip_s,
        "batch_clips": clips,
        "rounds": len(took["with"]),
        "clips_per_s": {name: round(clips / float(np.median(s)), 1) for name, s in took.items()},
        "processor_ms_per_clip": {name: round(1e3 * float(np.median(s)) / clips, 2) for name, s in used.items()},
        "speedup": ratio(took["without"], took["with"]),
        "speedup_processor": ratio(used["without"], used["with"]),
        "cache_bytes_per_clip": size // len(audio),
        "cache_processor_ms_per_clip": round(1e3 * prepared_s / len(audio), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--clip-s", type=float, default=5.0)
    parser.add_argument("--budget-s", type=float, default=120.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as scratch:
        part = measured(arguments, Path(scratch))
    part |= {"threads": arguments.threads, "machine": described("torch")}
    print(part)
    write_part(arguments.json, f"clips of {arguments.clip_s:g} s", part)


if __name__ == "__main__":
    main()
