"""A small model in float64, batches for it, and everything that an objective may read: for the tests of steps."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import dropout, normalize

from clapkit.audio.mel import MelSettings
from clapkit.data.batches import Batch
from clapkit.heads.projection import Linear
from clapkit.model import DualEncoder, Windowing
from clapkit.objectives.base import Embeddings
from clapkit.spec import Spec, spec
from clapkit.towers.vit import PatchTransformer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "contracts"))
from test_objectives import OBJECTIVES, axes, embeddings, word

__all__ = ["OBJECTIVES", "Beside", "Double", "Seen", "axes", "batch", "embeddings", "gradients", "small_model", "word"]

MEL = {"n_fft": 256, "window_samples": 256, "hop_samples": 128, "mel_bins": 32, "low_hz": 50.0, "high_hz": 4000.0}
TEXTS = ("a bell", "a dog barks", "rain", "a siren", "wind in trees", "a cat", "hammering", "bees")
TEXTS += tuple(f"sound number {n}" for n in range(248))
WIDTH = 8


class Double(DualEncoder):
    """The dual encoder without its rounding to float32; texts are random features through a matrix that learns."""

    def __init__(self, *, audio: Spec, drop: float = 0.0) -> None:
        mel = MelSettings(rate_hz=8000, **MEL)
        windowing = Windowing(window_s=0.5, hop_s=0.25)
        heads: dict[str, Any] = {"audio_head": spec(Linear), "text_head": None}
        super().__init__(frontend=mel, audio=audio, text=None, dimension=WIDTH, windowing=windowing, **heads)
        self.bias = nn.Parameter(torch.tensor(-2.0))
        self.words = nn.Linear(12, WIDTH)
        self.drop = drop
        if drop:  # inside the tower too, on every token
            self.audio.embed = nn.Sequential(self.audio.embed, nn.Dropout(drop))
        self.double()

    def encode_features(self, features, keep=None):
        summary_BD = self.audio(features, keep).summary_BD if keep is not None else self.audio(features).summary_BD
        return normalize(self.audio_head(self._dropped(summary_BD)), dim=-1)

    def encode_texts(self, texts):
        made = [np.random.default_rng(list(text.encode())).standard_normal(12) for text in texts]
        return normalize(self.words(self._dropped(torch.tensor(np.stack(made)))), dim=-1)

    def _dropped(self, values):
        return dropout(values, self.drop, self.training) if self.drop else values


def small_model(*, drop: float = 0.0, audio: Spec | None = None) -> Double:
    torch.manual_seed(11)
    return Double(audio=audio or spec(PatchTransformer, width=16, depth=1, heads=2, expansion=2), drop=drop).train()


class Beside(nn.Module):
    """Predictors, teachers and whatever else an objective may ask for that neither batch nor model have."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(12)
        names = ("other", "audio", "text", "wrong0", "wrong1", "wrong2")
        self.nets = nn.ModuleDict({name: nn.Linear(WIDTH, WIDTH) for name in names})
        self.prior, self.rebuild = nn.Linear(WIDTH, 1), nn.Linear(WIDTH, 6)
        self.negatives = nn.Parameter(torch.randn(2, WIDTH))
        self.wrong_sounds = nn.Parameter(torch.randn(3, WIDTH))
        self.double()

    def forward(self, model, batch, features, encode_texts):
        audio_BD, text_UD = model.encode_features(features), encode_texts(batch.texts)
        made = {
            name: normalize(net(audio_BD if name == "audio" else text_UD), dim=-1) for name, net in self.nets.items()
        }
        samples_BN = torch.from_numpy(batch.samples_BN).double()
        return {
            "text_other_UD": made["other"],
            "audio_prediction_BD": made["audio"],
            "text_prediction_UD": made["text"],
            "audio_teacher_BD": audio_BD.detach().roll(1, 1),
            "text_teacher_UD": text_UD.detach().roll(1, 1),
            "teacher_scale": torch.tensor(7.0, dtype=torch.float64),
            "value_BV": samples_BN[:, :3],
            "text_prior_U": self.prior(text_UD)[:, 0],
            "text_scale_U": self.prior(text_UD)[:, 0].exp(),
            "audio_private_UKD": torch.stack([made[f"wrong{k}"] for k in range(3)], dim=1),
            "rebuilt_BNP": self.rebuild(audio_BD).unflatten(1, (2, 3)),
            "hidden_BNP": samples_BN[:, 10:16].unflatten(1, (2, 3)),
            "text_negative_ED": normalize(self.negatives, dim=-1),
            "audio_negative_FD": normalize(self.wrong_sounds, dim=-1),
        }


def batch(clips: int = 7, texts: int = 5, *, seed: int = 3, step: int = 0, wrong: int = 3) -> Batch:
    """Clips of different lengths with one or two texts each, and everything that may be known about them."""
    rng = np.random.default_rng(seed)
    lengths_B = rng.integers(2000, 4001, clips)
    samples_BN = (0.1 * rng.standard_normal((clips, 4000))).astype(np.float32)
    samples_BN[np.arange(4000) >= lengths_B[:, None]] = 0.0
    target_BU = np.zeros((clips, texts), np.float32)
    for b in range(clips):
        target_BU[b, b % texts] += 0.5
        target_BU[b, (b * b) % texts] += 0.5
    starts = rng.uniform(0.0, 0.3, clips)
    events = tuple(((TEXTS[b % texts], float(s), float(s) + 0.15),) if b != 2 else () for b, s in enumerate(starts))
    return Batch(
        step=step,
        ids=tuple(f"clip{b}" for b in range(clips)),
        samples_BN=samples_BN,
        lengths_B=lengths_B,
        texts=TEXTS[:texts],
        soft_target_BU=target_BU,
        wrong=tuple(tuple(f"no {TEXTS[b % 3]} {k}" for k in range(wrong)) for b in range(clips)),
        label_B=np.array([b % 3 - (b == 4) for b in range(clips)]),
        tag_BC=(rng.random((clips, 4)) < 0.5).astype(np.float32),
        other_BN=np.roll(samples_BN, 50, axis=1),
        other_lengths_B=np.full(clips, 4000),
        events=events,
    )


def gradients(module: nn.Module) -> dict[str, torch.Tensor]:
    """What a step left, taken away so that the next one starts afresh."""
    found = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad(set_to_none=True)
    return found


@dataclass(frozen=True)
class Seen:
    """An objective that keeps what it was given."""

    needs: tuple[str, ...] = ("audio", "text")
    reduces: str = "rows"
    seen: list[Embeddings] = field(default_factory=list)

    def __call__(self, z: Embeddings) -> dict[str, torch.Tensor]:
        self.seen.append(z)
        return {"sum": z.audio_BD.sum() + z.text_UD.sum()}
