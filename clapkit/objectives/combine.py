"""Objectives made of objectives."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch.nn.functional import normalize

from clapkit.errors import ClapkitError, SpecError
from clapkit.objectives.base import Embeddings, Objective, Reduces

# From the kind that may be split anywhere to the kind that may not be split.
_STRICTER: tuple[Reduces, ...] = ("samples", "pairs", "rows")


def _is_objective(value: Any) -> bool:
    # A class has the members of its instances: naming one without calling it is an easy slip.
    return isinstance(value, Objective) and not isinstance(value, type)


def _check_weight(what: str, weight: Any) -> None:
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0.0 <= weight < math.inf:
        raise SpecError(f"{what}: the weight is a finite number >= 0, not {weight!r}")


@dataclass(frozen=True)
class Weighted:
    """A weighted sum: every loss of every part, times the part's weight.

    parts   ((objective, weight), ...)

    The losses keep their names; where two parts use the same name, every loss gets its part's in front, with the part's
    position from 1 on where a class occurs twice ("CWCL.text_to_audio", "InfoNCE_2.text_to_audio"). It needs what any
    part needs, and is split no more freely than its strictest part. `weighted` writes the same with fewer brackets.

    Limits. One part of weight 1: that part. Parts of weights v and w of the same objective: it, times v + w.
    """

    parts: tuple[tuple[Any, float], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(tuple(part) if isinstance(part, list) else part for part in self.parts))
        if not self.parts:
            raise SpecError("Weighted has no parts: it takes at least one (objective, weight)")
        for part in self.parts:
            if not isinstance(part, tuple) or len(part) != 2 or not _is_objective(part[0]):
                raise SpecError(f"a part of Weighted is (objective, weight), not {part!r}")
            _check_weight(repr(part[0]), part[1])

    @property
    def needs(self) -> tuple[str, ...]:
        """What any part reads, in order."""
        return tuple(dict.fromkeys(need for objective, _ in self.parts for need in objective.needs))

    @property
    def reduces(self) -> Reduces:
        """That of the strictest part."""
        return max((objective.reduces for objective, _ in self.parts), key=_STRICTER.index)

    def __call__(self, z: Embeddings) -> dict[str, torch.Tensor]:
        found = [{k: weight * v for k, v in objective(z).items()} for objective, weight in self.parts]
        names = Counter(name for losses in found for name in losses)
        if max(names.values(), default=0) <= 1:
            return {name: loss for losses in found for name, loss in losses.items()}
        return {
            f"{label}.{k}": v for label, losses in zip(self._labels(), found, strict=True) for k, v in losses.items()
        }

    def _labels(self) -> list[str]:
        names = [type(objective).__name__ for objective, _ in self.parts]
        return [name if names.count(name) == 1 else f"{name}_{i}" for i, name in enumerate(names, start=1)]


def weighted(*parts: tuple[Objective, float]) -> Weighted:
    """`weighted((InfoNCE(), 1.0), (HardNegativeSoftplus(), 0.5))`: the weighted sum of these objectives."""
    return Weighted(parts)


@dataclass(frozen=True)
class Matryoshka:
    """One objective on the first numbers of the vectors, for several widths (Kusupati et al., NeurIPS 2022).

        loss = sum_w weight_w objective(z with every vector cut to its first w numbers and brought to unit norm)

    Every field whose last axis is D and as wide as audio_BD is cut; a teacher of another width is left whole. The names
    of losses get the width behind them ("audio_to_text_64"). After training, the first w numbers are an embedding on
    their own, so that a search index may keep as many as it can afford.

    weights   one for each width; empty: 1 for each

    Limits. The one width of the embedding itself: the objective. ClapkitError for a width that the embedding has not.
    """

    objective: Any
    widths: tuple[int, ...]
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("widths", "weights"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not _is_objective(self.objective):
            raise SpecError(f"Matryoshka needs an objective, not {self.objective!r}")
        whole = all(isinstance(width, int) and width >= 1 for width in self.widths)
        if not whole or not self.widths or len(set(self.widths)) < len(self.widths):
            raise SpecError(f"widths are different whole numbers, at least one of them and all >= 1, not {self.widths}")
        if self.weights and len(self.weights) != len(self.widths):
            raise SpecError(
                f"{len(self.widths)} widths and {len(self.weights)} weights: give one weight for each width"
            )
        for width, weight in zip(self.widths, self.weights, strict=False):
            _check_weight(f"width {width}", weight)

    @property
    def needs(self) -> tuple[str, ...]:
        """What the objective reads."""
        return self.objective.needs

    @property
    def reduces(self) -> Reduces:
        """As the objective does."""
        return self.objective.reduces

    def __call__(self, z: Embeddings) -> dict[str, torch.Tensor]:
        losses = {}
        for width, weight in zip(self.widths, self.weights or (1.0,) * len(self.widths), strict=True):
            for name, loss in self.objective(_cut(z, width)).items():
                losses[f"{name}_{width}"] = weight * loss
        return losses


def _cut(z: Embeddings, width: int) -> Embeddings:
    whole = z.audio_BD.shape[1]
    if width > whole:
        raise ClapkitError(
            f"Matryoshka has the width {width}, but the embeddings have {whole} numbers: give at most that"
        )
    if width == whole:
        return z
    vectors = {f.name: v for f in fields(z) if f.name.endswith("D") and (v := getattr(z, f.name)) is not None}
    return replace(z, **{k: normalize(v[..., :width], dim=-1) for k, v in vectors.items() if v.shape[-1] == whole})
