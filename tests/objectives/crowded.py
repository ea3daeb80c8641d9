"""Batches for the tests of objectives, the denominators of contrast written out, and what holds for several of them."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import torch
from torch.nn import functional

from clapkit.objectives.base import Embeddings, Objective


def unit(rows: int, width: int = 6, *, seed: int = 0) -> torch.Tensor:
    made = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return functional.normalize(made, dim=-1)


def target(clips: int, texts: int, *, seed: int = 7) -> torch.Tensor:
    made = torch.rand(clips, texts, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return made / made.sum(1, keepdim=True)


def batch(clips: int = 4, texts: int = 5, *, scale: float = 7.0, **more) -> Embeddings:
    given = {"soft_target_BU": target(clips, texts), **more}
    return Embeddings(unit(clips, seed=1), unit(texts, seed=2), torch.tensor(scale, dtype=torch.float64), **given)


def counted(z: Embeddings, b: int, u: int) -> bool:
    return z.include_BU is None or bool(z.include_BU[b, u]) or z.target_BU()[b, u].item() > 0


def own(vectors_RKD, there_RK, row: int) -> list[torch.Tensor]:
    """What is wrong for one row alone."""
    if vectors_RKD is None:
        return []
    return [v for k, v in enumerate(vectors_RKD[row]) if there_RK is None or bool(there_RK[row, k])]


def denominators(z: Embeddings) -> tuple[list[float], list[float]]:
    """Of every clip and of every text, one exponential at a time."""
    of_clip = [0.0] * len(z.audio_BD)
    of_text = [0.0] * len(z.text_UD)
    for b, a in enumerate(z.audio_BD):
        for u, t in enumerate(z.text_UD):
            if counted(z, b, u):
                of_clip[b] += math.exp(float(z.scale * a @ t))
                of_text[u] += math.exp(float(z.scale * a @ t))
        shared = [] if z.text_negative_ED is None else list(z.text_negative_ED)
        for t in shared + own(z.text_private_BKD, z.private_BK, b):
            of_clip[b] += math.exp(float(z.scale * a @ t))
    for u, t in enumerate(z.text_UD):
        shared = [] if z.audio_negative_FD is None else list(z.audio_negative_FD)
        for a in shared + own(z.audio_private_UKD, z.audio_private_UK, u):
            of_text[u] += math.exp(float(z.scale * a @ t))
    return of_clip, of_text


def crowded(*, clips: int = 4, texts: int = 5) -> Embeddings:
    """A batch with every field that softmax contrast honours; some pairs have no target, some are left out."""
    generator = torch.Generator().manual_seed(3)
    sparse = target(clips, texts) * (torch.rand(clips, texts, generator=generator) < 0.4)
    sparse[:, 0] += 0.1
    return batch(
        clips,
        texts,
        soft_target_BU=sparse / sparse.sum(1, keepdim=True),
        include_BU=torch.rand(clips, texts, generator=generator) < 0.6,
        text_negative_ED=unit(2, seed=3),
        audio_negative_FD=unit(3, seed=9),
        text_private_BKD=unit(clips * 3, seed=4).view(clips, 3, 6),
        private_BK=torch.rand(clips, 3, generator=generator) < 0.7,
        audio_private_UKD=unit(texts * 2, seed=5).view(texts, 2, 6),
        audio_private_UK=torch.rand(texts, 2, generator=generator) < 0.7,
        text_teacher_UD=unit(texts, 4, seed=6),
        audio_teacher_BD=unit(clips, 5, seed=7),
    )


def check_narrow_numbers(objective: Objective, z: Embeddings) -> None:
    """bfloat16 knows 2 to 3 digits: what is given has them, sums over clips and numbers must not lose more."""
    narrow, same = ({}, {})
    for f in fields(z):
        value = getattr(z, f.name)
        if value is not None and value.is_floating_point():
            narrow[f.name] = value.bfloat16()
            same[f.name] = value.bfloat16().float()
    found, expected = objective(replace(z, **narrow)), objective(replace(z, **same))
    for name, part in found.items():
        assert part.dtype == torch.float32
        torch.testing.assert_close(part, expected[name])
