"""Whether the vectors of a run still tell things apart: numbers for the log, and a warning when they do not."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch

# Vectors whose mean cosine is above this are nearly one vector. For so many records in a row it is no mere beginning:
# a network with random weights gives everything nearly the same vector, and needs some steps to part them.
ALIKE = 0.99
PATIENCE = 5
_MOST_ROWS = 256  # of a batch that the rank is computed from


class Watch:
    """Looks at the vectors of a batch when `wanted`, and says what it saw in `report`.

    audio_cosine, text_cosine  mean cosine of two different vectors of a side: 1 where all are one vector
    audio_rank                 effective rank: exp of the entropy of the singular values, which sum to 1 (Roy and
                               Vetterli 2007); between 1 and the smaller of clips and dimensions
    gap                        distance between the mean of the sound vectors and that of the text vectors (Liang et
                               al. 2022)
    """

    def __init__(self) -> None:
        self.wanted = False
        self._seen: dict[str, torch.Tensor] = {}
        self._alike = 0

    def __call__(self, made: Mapping[str, torch.Tensor]) -> None:
        """Remember the fields audio_BD and text_UD of a batch, if they are wanted."""
        if self.wanted:
            self._seen = {name: made[name].detach().float() for name in ("audio_BD", "text_UD") if name in made}

    @torch.no_grad()
    def report(self) -> dict[str, float | str]:
        """The numbers of the batch that was seen last, and under "warning" what is wrong with them for some time."""
        if len(self._seen) < 2:
            return {}
        audio_BD, text_UD = self._seen["audio_BD"], self._seen["text_UD"]
        self._seen = {}
        cosines = {"audio_cosine": mean_cosine(audio_BD), "text_cosine": mean_cosine(text_UD)}
        gap = float((audio_BD.mean(0) - text_UD.mean(0)).norm())
        found: dict[str, float | str] = {**cosines, "audio_rank": effective_rank(audio_BD[:_MOST_ROWS]), "gap": gap}
        self._alike = self._alike + 1 if max(cosines.values()) > ALIKE else 0
        if self._alike >= PATIENCE:
            found["warning"] = _warning(cosines)
            if self._alike == PATIENCE:
                warnings.warn(str(found["warning"]), stacklevel=2)
        return found


def mean_cosine(vectors_ND: torch.Tensor) -> float:
    """Mean cosine of two different rows of unit norm; 0 where there is one row alone."""
    count = len(vectors_ND)
    if count < 2:
        return 0.0
    return float((vectors_ND.sum(0).square().sum() - vectors_ND.square().sum()) / (count * (count - 1)))


def effective_rank(vectors_ND: torch.Tensor) -> float:
    """exp of the entropy of the singular values, brought to the sum 1."""
    values = torch.linalg.svdvals(vectors_ND)
    shares = values / values.sum().clamp(min=1e-12)
    return float(torch.special.entr(shares).sum().exp())


def _warning(cosines: Mapping[str, float]) -> str:
    side, cosine = max(cosines.items(), key=lambda item: item[1])
    name = "sounds" if side == "audio_cosine" else "texts"
    return (
        f"the vectors of all {name} of a batch are nearly the same (mean cosine {cosine:.4f}) for {PATIENCE} records "
        "and more: the model has collapsed, or has not begun to learn. An objective without negatives needs something "
        "that keeps vectors apart (VICReg's variance, a teacher with predictors); otherwise lower train.lr, raise "
        "train.warmup_steps or batch.clips, and see whether the sounds are all silent or alike"
    )
