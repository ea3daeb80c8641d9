"""One more small network behind each side, whose vectors are contrasted with the other side's own (card 000)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from clapkit.errors import SpecError
from clapkit.heads.projection import MLP


@dataclass(frozen=True)
class Transforms:
    """Two networks, linear, ReLU, linear, that make `audio_other` and `text_other` of the model's own vectors.

    hidden_width  inside both

    With `TransformNCE`: the option "MLP loss" of LAION's trainer (card 000). They learn with the model and are left
    behind at the end of the run.
    """

    hidden_width: int = 512

    adds: ClassVar[tuple[str, ...]] = ("audio_other", "text_other")

    def __post_init__(self) -> None:
        if self.hidden_width < 1:
            raise SpecError(f"hidden_width has to be at least 1, not {self.hidden_width}")

    def build(self, width: int, *, seed: int) -> nn.ModuleDict:
        """The networks for vectors of `width`, with weights that `seed` alone decides."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.ModuleDict({name: MLP(width, width, hidden_width=self.hidden_width) for name in self.adds})
