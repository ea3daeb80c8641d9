"""Contrast by one yes-or-no question a pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch.nn.functional import softplus
from torch.utils.checkpoint import checkpoint

from clapkit.errors import ClapkitError, SpecError, nearest_name
from clapkit.objectives.base import Embeddings, Reduces
from clapkit.objectives.contrast import private_logits, wide

Labels = Literal["multi", "soft"]


@dataclass(frozen=True)
class PairwiseSigmoid:
    """Sigmoid loss with a bias (SigLIP, ICCV 2023; GLAP, card 034; binary NCE, card 032).

    With z_bu = scale * a_b . t_u + bias and the answer y_bu:

        loss = -1/B  sum_bu [ y_bu log sigmoid(z_bu) + (1 - y_bu) log sigmoid(-z_bu) ]

    labels = "multi"  y = 1 for every pair with a positive target, so that each of several true texts is one
    labels = "soft"   y = the target itself

    Pairs without target that include_BU leaves out are not asked about. Negatives that all share (text_negative,
    audio_negative) and private ones (text_private, audio_private) are more pairs with y = 0. The loss is a sum over
    pairs: it is the same whatever the pairs are split into, and its size grows with the batch; with n negatives to a
    positive, a bias of -log n starts it where neither outweighs the other (the papers' -10 is for large batches).

    `chunk_rows` clips at a time are compared with all texts, and once more for the gradient: the logits [B, U] never
    exist whole, nor does a target that was not given. None: all at once.

    Relations. Two texts, scale and bias given: logistic regression. Softmax contrast knows that one text of the batch
    is right; here each pair is judged alone, and texts that two clips share need no care.
    Limits. Scale 0: (U - 1) log(1 + e^bias) + log(1 + e^-bias). The optimum for sampled pairs is their pointwise mutual
    information plus a constant.
    """

    labels: Labels = "multi"
    chunk_rows: int | None = None

    needs: ClassVar[tuple[str, ...]] = ("audio", "text")
    reduces: ClassVar[Reduces] = "pairs"

    def __post_init__(self) -> None:
        if self.labels not in get_args(Labels):
            raise SpecError(f"labels={self.labels!r}; {nearest_name(str(self.labels), get_args(Labels))}")
        if self.chunk_rows is not None and self.chunk_rows < 1:
            raise SpecError(f"chunk_rows is a number of clips, 1 or more, or None for all; not {self.chunk_rows}")

    def __call__(self, z: Embeddings) -> dict[str, torch.Tensor]:
        if z.bias is None:
            raise ClapkitError(
                "PairwiseSigmoid needs a bias, and this batch has none: train a model that has one (pair_bias "
                "of DualEncoder, about -log of the number of negatives to a positive)"
            )
        clips = len(z.audio_BD)
        if z.soft_target_BU is not None or clips != len(z.text_UD):
            z.target_BU()  # checks the shapes
        step = self.chunk_rows or clips
        total = wide(z.audio_BD).new_zeros(())
        for start in range(0, clips, step):
            block = slice(start, min(start + step, clips))
            if step < clips and torch.is_grad_enabled():
                # What the block computed is forgotten, and made again when its gradient is wanted.
                total = total + checkpoint(self._cost, z, block, use_reentrant=False, preserve_rng_state=False)
            else:
                total = total + self._cost(z, block)
        return {"sigmoid": (total + self._negatives(z, wide(z.bias))) / clips}

    def _cost(self, z: Embeddings, block: slice) -> torch.Tensor:
        """The sum over the pairs of a block of clips with all texts."""
        z_NU = z.scale * (wide(z.audio_BD[block]) @ wide(z.text_UD).T) + wide(z["bias"])
        if z.soft_target_BU is None:
            target_NU = torch.zeros_like(z_NU)
            target_NU.diagonal(block.start).fill_(1.0)
        else:
            target_NU = wide(z.soft_target_BU[block])
        positive_NU = target_NU > 0
        answer_NU = positive_NU.to(z_NU.dtype) if self.labels == "multi" else target_NU
        # -y log sigmoid(z) - (1 - y) log sigmoid(-z)
        cost_NU = softplus(z_NU) - answer_NU * z_NU
        if z.include_BU is not None:
            cost_NU = cost_NU * (z.include_BU[block].bool() | positive_NU)
        return cost_NU.sum()

    def _negatives(self, z: Embeddings, bias: torch.Tensor) -> torch.Tensor:
        """The pairs that are all wrong."""
        total = bias.new_zeros(())
        for subject, shared in ((z.audio_BD, z.text_negative_ED), (z.text_UD, z.audio_negative_FD)):
            if shared is not None:
                total = total + softplus(z.scale * (wide(subject) @ wide(shared).T) + bias).sum()
        for logits in (private_logits(z, "text"), private_logits(z, "audio")):
            if logits is not None:
                total = total + softplus(logits + bias).sum()
        return total
