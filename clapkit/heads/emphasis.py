"""The text side stretched along the directions in which the texts of the data differ."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clapkit.errors import SpecError
from clapkit.spec import Spec, spec


class TextEmphasis(nn.Module):
    """t -> M t with M = C^power, C = E[t t^T] over the texts of the training set; the identity until `place`.

    A sentence encoder spreads its numbers over more directions than a few thousand captions use. What a sound says in
    the unused ones is chance, and a label never trained on is compared in all of them. M makes the used directions
    count more (whitening, power -1/2, does the opposite). What it does to classes never heard: docs/esc50.md.

    Limits: power 0 is the identity; a large power keeps the first principal direction alone. A text tower that learns
    has no fixed texts to measure: training leaves the identity.
    """

    matrix_DD: Tensor

    def __init__(self, in_width: int, out_width: int, *, power: float = 0.25) -> None:
        super().__init__()
        if in_width != out_width:
            raise SpecError(f"TextEmphasis keeps the width: the text tower has {in_width}, the space {out_width}")
        if not 0 <= power <= 2:
            raise SpecError(f"power={power}: expected a number from 0 (no emphasis) to 2")
        self.width = out_width
        self.power = power
        self.register_buffer("matrix_DD", torch.eye(out_width))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix_DD

    def place(self, texts_KD: Tensor) -> None:
        """Take C from these unit-norm text features [K, D]."""
        texts_KD = texts_KD.detach().double()
        values, vectors = torch.linalg.eigh(texts_KD.T @ texts_KD / len(texts_KD))
        powers = values.clamp_min(1e-9) ** self.power
        self.matrix_DD = ((vectors * powers) @ vectors.T).to(self.matrix_DD)

    def spec(self) -> Spec:
        """What builds a head that the weights of this one fit, given the widths."""
        return spec(type(self), power=self.power)
