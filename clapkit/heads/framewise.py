"""Single frames against texts, calibrated: a scale and a prior of its own for every text (FLAM, card 049).

A cosine between a frame and a text says which of two frames fits better, but not whether a text that is true in one
frame out of ten thousand is true here. FLAM reads two numbers off each text: how steep its cosines are, and the
log-odds that it is true of any frame at all. The second is what the training data happened to hold, and can be taken
out again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clapkit.errors import SpecError, nearest_name
from clapkit.heads.projection import MLP
from clapkit.spec import spec

Prior = Literal["kept", "removed", "ignored"]
_FIRST_BIAS, _FIRST_SCALE = -8.0, 10.0


@dataclass(frozen=True)
class TextTerms:
    """What the head reads off each of C texts: the factor of its cosines (above 0), and the log-odds of its prior."""

    scale_C: Tensor
    bias_C: Tensor


def frame_cosines(frames_BTD: Tensor, text_CD: Tensor) -> Tensor:
    """[B, C, T] cosines of projected frames (of any length, not yet unit norm) with text embeddings."""
    return F.normalize(text_CD, dim=-1) @ F.normalize(frames_BTD, dim=-1).mT


class FramewiseHead(nn.Module):
    """Probabilities that each of C texts is true in each of T frames.

    text_width    width of the text tower: the terms are read off its summary, before any projection
    hidden_width  inside the two small networks; None: `text_width`

        terms = head(text_features_CW)
        head.scores(frame_cosines(frames_BTD, text_CD), terms)      # [B, C, T] in 0 to 1

    `log_scale`, the logarithm of a factor common to all texts, is a constant of the model: 0 as published.
    """

    log_scale: Tensor

    def __init__(self, *, text_width: int, hidden_width: int | None = None) -> None:
        super().__init__()
        self.bias = MLP(text_width, 1, hidden_width=hidden_width or text_width, activation="gelu")
        self.scale = MLP(text_width, 1, hidden_width=hidden_width or text_width, activation="gelu")
        nn.init.constant_(self.bias.linear2.bias, _FIRST_BIAS)
        nn.init.constant_(self.scale.linear2.bias, math.log(_FIRST_SCALE))
        self.register_buffer("log_scale", torch.zeros(()))

    def forward(self, text_features_CW: Tensor) -> TextTerms:
        """The terms of texts whose tower says `text_features_CW`; one text alone is [1, W]."""
        return TextTerms(self.scale(text_features_CW)[..., 0].exp(), self.bias(text_features_CW)[..., 0])

    def logits(self, cosine_BCT: Tensor, terms: TextTerms) -> Tensor:
        """[B, C, T] log-odds that a text is true in a frame, as trained: with the prior of the training data."""
        return self._steep(cosine_BCT, terms) + terms.bias_C[:, None]

    def scores(self, cosine_BCT: Tensor, terms: TextTerms, *, prior: Prior = "removed") -> Tensor:
        """[B, C, T] in 0 to 1.

        prior   "kept": the probability p as trained; "removed": p / (p + q), q the probability in any frame: 0.5 for a
                frame that says nothing, so that one threshold serves rare and common texts; "ignored": what that
                becomes for a text that is hardly ever true, a sigmoid of the scaled cosine alone

        Raises SpecError for another `prior`.
        """
        if prior == "kept":
            return self.logits(cosine_BCT, terms).sigmoid()
        if prior == "ignored":
            return self._steep(cosine_BCT, terms).sigmoid()
        if prior != "removed":
            raise SpecError(f"prior={prior!r}: {nearest_name(prior, get_args(Prior))}")
        # p / (p + q) of two sigmoids as one sigmoid of logarithms: neither of the two may round to zero.
        return (F.logsigmoid(self.logits(cosine_BCT, terms)) - F.logsigmoid(terms.bias_C)[:, None]).sigmoid()

    def _steep(self, cosine_BCT: Tensor, terms: TextTerms) -> Tensor:
        return cosine_BCT * (terms.scale_C * self.log_scale.exp())[:, None]


tiny = spec(FramewiseHead, text_width=32)
flam = spec(FramewiseHead, text_width=768)
