"""A training step of HTSAT-tiny against frozen texts: clapkit and a plain loop over ClapModel of transformers.

Run:   python benchmarks/train_vs_transformers.py [--threads 2] [--batch 16] [--seconds 200] [--precisions fp32,bf16]

Both arms hold the same weights (random, saved by transformers, `embed_vs_transformers.write_model`), train all of the
sound side with the same AdamW on the same clips of 10 s at 48 kHz, in memory as float32, against the same cached unit
vectors of texts; batch norm is live and dropout 0 in both, so that their losses can be compared: the largest difference
in the first step is printed. A step is mel, towers, head, symmetric InfoNCE, backward, clipping of the gradient, AdamW.

step     with mel as each library makes it: ours in the step, theirs by ClapFeatureExtractor in the loop
audio    on ready mels, without the optimizer: tower, head, loss, backward
profile  processor time of our audio step by kind of operation, in a process of its own (--profile PRECISION)
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from embed_vs_transformers import write_model
from machine import described
from torch.nn import functional as F
from train_turns import in_turns, ratio, write_part

from clapkit.checkpoints.hub import locate
from clapkit.checkpoints.load import read_model
from clapkit.data.batches import Batch
from clapkit.nets.products import quick_products
from clapkit.objectives.contrast import InfoNCE
from clapkit.train_settings import TrainSettings, TuneSettings
from clapkit.training.optim import build_optimizer
from clapkit.training.step import How, batch_features, take_step
from clapkit.training.tuning import choose_what_learns, to_training_mode

RESULTS = Path(__file__).parent / "results" / "train_vs_transformers.json"
RATE_HZ, CLIP_S = 48_000, 10
SETTINGS = TrainSettings(lr=1e-4)


def sounds(clips: int) -> np.ndarray:
    """[B, N] noise whose colour and level differ from clip to clip."""
    rng = np.random.default_rng(0)
    samples_BN = rng.standard_normal((clips, RATE_HZ * CLIP_S), dtype=np.float32)
    shares_B1 = rng.uniform(0.0, 0.95, (clips, 1)).astype(np.float32)
    samples_BN[:, 1:] = (1 - shares_B1) * samples_BN[:, 1:] + shares_B1 * samples_BN[:, :-1]
    return 0.1 * samples_BN


class Ours:
    """The step of clapkit's training loop on a model that it has loaded."""

    def __init__(self, folder: Path, samples_BN: np.ndarray, texts_UD: torch.Tensor, *, precision: str) -> None:
        tune = TuneSettings(learns="audio", batch_norm="live")
        self.model = read_model(locate(folder)).model
        choose_what_learns(self.model, tune)
        to_training_mode(self.model, tune)
        self.optimizer = build_optimizer(self.model, SETTINGS)
        clips = len(samples_BN)
        self.batch = Batch(
            step=0,
            ids=tuple(f"clip{b}" for b in range(clips)),
            samples_BN=samples_BN,
            lengths_B=np.full(clips, samples_BN.shape[1]),
            texts=tuple(f"text {b}" for b in range(clips)),
            soft_target_BU=np.eye(clips, dtype=np.float32),
        )
        self.how = How(lambda texts: texts_UD, precision=precision)
        self.texts_UD, self.precision = texts_UD, precision
        self.features = batch_features(self.model, self.batch, ())
        self.loss = math.nan

    def step(self, number: int) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        losses = take_step(self.model, InfoNCE(), self.batch, self.how)
        torch.nn.utils.clip_grad_norm_([p for _, p in self.model.learnt()], SETTINGS.clip_norm)
        self.optimizer.step()
        self.loss = float(sum(losses.values()))

    def audio(self, number: int) -> None:
        with quick_products(self.model.device):
            with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
                audio_BD = self.model.encode_features(self.features)
            contrast(audio_BD, self.texts_UD, self.model.scale).backward()


class Peer:
    """A loop as it is written over transformers."""

    def __init__(self, folder: Path, samples_BN: np.ndarray, texts_UD: torch.Tensor, *, precision: str) -> None:
        self.model = transformers.ClapModel.from_pretrained(
            folder, audio_config={**self._config(folder), "hidden_dropout_prob": 0.0}
        ).train()
        self.extractor = transformers.ClapFeatureExtractor.from_pretrained(folder)
        self.model.requires_grad_(False)
        for part in (self.model.audio_model, self.model.audio_projection):
            part.requires_grad_(True)
        self.model.logit_scale_a.requires_grad_(True)
        self.learnt = [p for p in self.model.parameters() if p.requires_grad]
        decay = [p for p in self.learnt if p.ndim > 1]
        rest = [p for p in self.learnt if p.ndim <= 1]
        groups = [{"params": decay, "weight_decay": SETTINGS.weight_decay}, {"params": rest, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=SETTINGS.lr, betas=(SETTINGS.beta1, SETTINGS.beta2))
        self.samples, self.texts_UD, self.precision = list(samples_BN), texts_UD, precision
        self.features = self.extract()
        self.loss = math.nan

    @staticmethod
    def _config(folder: Path) -> dict[str, Any]:
        return transformers.ClapConfig.from_pretrained(folder).audio_config.to_dict()

    def extract(self) -> transformers.BatchFeature:
        return self.extractor(self.samples, sampling_rate=RATE_HZ, return_tensors="pt")

    def forward(self, features: transformers.BatchFeature) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
            found = self.model.get_audio_features(**features)
        audio_BD = F.normalize(getattr(found, "pooler_output", found).float(), dim=-1)
        return contrast(audio_BD, self.texts_UD, self.model.logit_scale_a.exp())

    def step(self, number: int) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.forward(self.extract())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.learnt, SETTINGS.clip_norm)
        self.optimizer.step()
        self.loss = float(loss.detach())

    def audio(self, number: int) -> None:
        self.forward(self.features).backward()


def contrast(audio_BD: torch.Tensor, texts_UD: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Symmetric InfoNCE of clips and their own texts."""
    logits_BU, own_B = scale * audio_BD @ texts_UD.T, torch.arange(len(audio_BD))
    return (F.cross_entropy(logits_BU, own_B) + F.cross_entropy(logits_BU.T, own_B)) / 2


def contest(folder: Path, arguments: argparse.Namespace) -> None:
    samples_BN, texts_UD = sounds(arguments.batch), texts(arguments.batch)
    precisions = arguments.precisions.split(",")
    rows: list[dict[str, Any]] = []
    for precision in precisions:
        ours, peer = (kind(folder, samples_BN, texts_UD, precision=precision) for kind in (Ours, Peer))
        ours.step(0)
        peer.step(0)
        first = {"ours": ours.loss, "peer": peer.loss}
        half_s = arguments.seconds / len(precisions) / 2
        whole = in_turns({"ours": ours.step, "peer": peer.step}, budget_s=half_s)
        audio = in_turns({"ours": ours.audio, "peer": peer.audio}, budget_s=half_s)
        row: dict[str, Any] = {"precision": precision, "batch": arguments.batch, "loss_of_first_step": first}
        for name, took in (("step", whole), ("audio", audio)):
            rate = {arm: round(arguments.batch / float(np.median(times)), 2) for arm, times in took.items()}
            row[name] = {"clips_per_s": rate, **ratio(took["peer"], took["ours"]), "rounds": len(took["ours"])}
        print(row, flush=True)
        rows.append(row)
        told = {"threads": arguments.threads, "rows": rows, "machine": described("torch", "transformers", "numpy")}
        write_part(arguments.json, f"batch_{arguments.batch}", told)  # row by row: an interruption costs the rest alone


def texts(count: int) -> torch.Tensor:
    return F.normalize(torch.randn(count, 512, generator=torch.Generator().manual_seed(1)), dim=-1)


def profile(folder: Path, arguments: argparse.Namespace) -> None:
    arm = Ours(folder, sounds(arguments.batch), texts(arguments.batch), precision=arguments.profile)
    arm.audio(0)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        arm.audio(1)
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=30, max_name_column_width=50))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=200.0, help="time for all measurements")
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--profile", choices=("fp32", "bf16"), help="show where our time goes, and nothing else")
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as scratch:
        write_model(Path(scratch))
        if arguments.profile:
            profile(Path(scratch), arguments)
        else:
            contest(Path(scratch), arguments)


if __name__ == "__main__":
    main()
