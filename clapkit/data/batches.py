"""What a training step is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from clapkit.errors import SpecError


@dataclass(frozen=True)
class BatchSize:
    """Clips in a batch, and how much of each is heard: longer clips are cropped at a drawn place, shorter ones kept."""

    clips: int = 64
    clip_s: float = 5.0

    def __post_init__(self) -> None:
        if self.clips < 2:
            raise SpecError(f"a contrastive batch needs at least 2 clips, not {self.clips}")
        if self.clip_s <= 0:
            raise SpecError(f"clip_s has to be above 0 seconds, not {self.clip_s}")


@dataclass(frozen=True)
class Batch:
    """B clips and U distinct texts.

    samples_BN, lengths_B   mono float32 at model rate, padded with zeros at the end
    texts, soft_target_BU   the texts and how each clip's description is shared out among them
    mel_params              for each mel view the drawn parameters of each clip
    params                  everything that was drawn, JSON-able, for the log and for replay
    """

    step: int
    ids: tuple[str, ...]
    samples_BN: np.ndarray
    lengths_B: np.ndarray
    texts: tuple[str, ...]
    soft_target_BU: np.ndarray
    mel_params: tuple[tuple[Mapping[str, Any], ...], ...] = ()
    params: Mapping[str, Any] | None = None
