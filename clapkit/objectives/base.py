"""What an objective is given, and what it promises.

An objective is a frozen dataclass that is callable: `objective(z) -> {"name": scalar, ...}`. The scalars add up to the
loss; their names are the log's columns. It calls no model and gathers nothing: the training step does both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch

from clapkit.errors import ClapkitError

Reduces = Literal["samples", "pairs", "rows"]


@dataclass(frozen=True)
class Embeddings:
    """Unit-norm embeddings of one batch and how its texts describe its sounds.

    audio_BD           one row a clip
    text_UD            one row a *distinct* text: a caption that stands twice in the batch stands once here
    soft_target_BU     row b says how clip b's description is shared out among the texts: >= 0, each row sums to 1.
                       None: text b describes clip b and no other (then U = B)
    scale              exp(logit scale) = 1 / temperature, a scalar
    bias               a scalar, for objectives on pairs; None otherwise
    text_negative_ED   texts that describe no clip of the batch; they stand in the denominators only
    """

    audio_BD: torch.Tensor
    text_UD: torch.Tensor
    scale: torch.Tensor
    soft_target_BU: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    text_negative_ED: torch.Tensor | None = None

    def target_BU(self) -> torch.Tensor:
        """The target as a matrix, the identity where none was given; shapes checked."""
        clips, texts = self.audio_BD.shape[0], self.text_UD.shape[0]
        if self.soft_target_BU is None:
            if clips != texts:
                raise ClapkitError(
                    f"{clips} clips and {texts} texts need a soft_target_BU that says which belong together"
                )
            return torch.eye(clips, dtype=self.audio_BD.dtype, device=self.audio_BD.device)
        if tuple(self.soft_target_BU.shape) != (clips, texts):
            found = tuple(self.soft_target_BU.shape)
            raise ClapkitError(f"soft_target_BU has shape {found}, expected ({clips}, {texts}): clips x texts")
        return self.soft_target_BU


@runtime_checkable
class Objective(Protocol):
    """The seam that every objective fills.

    needs    batch fields it reads ("audio", "text", "soft_target", "text_negative", ...), checked against the views
    reduces  "samples": the loss is a mean over clips and may be accumulated over micro-batches; "pairs": a sum over
             pairs; "rows": softmax over all texts of the batch, which must be seen together
    """

    @property
    def needs(self) -> tuple[str, ...]: ...

    @property
    def reduces(self) -> Reduces: ...

    def __call__(self, z: Embeddings) -> Mapping[str, torch.Tensor]: ...
