"""Frames against texts: is this text heard *now*?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from clapkit.errors import ClapkitError, SpecError, nearest_name
from clapkit.objectives.base import Embeddings, Reduces

Offset = Literal["text_prior", "bias"]


@dataclass(frozen=True)
class FrameSigmoid:
    """FLAM's frame loss: one yes-or-no question for every frame and text of the batch (card 049).

    With e in {0, 1} the truth and x_bt, y_u a frame and a text, over all (b, u, t) whose truth is known:

        h_but = scale * x_bt . y_u + offset_u
        loss  = mean of  -[ e log sigmoid(h) + (1 - e) log sigmoid(-h) ]

    offset   "text_prior": the log-odds of each text (text_prior_U), held still here: PriorBCE teaches it, so that
             scale and vectors have to learn the rest.  "bias": the one learned bias of the model
    chunk    texts at a time: their logits are made again for the gradient and never stand in memory together.
             The result does not depend on it

    NaN in events_BUT and False in frame_mask_BT: not known, no part of the mean. FLAM weighs this by 200 beside InfoNCE.
    Relations. One frame a clip, events = the target, "bias": the pairwise sigmoid loss (card 034) over U, averaged.
    Limits. Scale 0 and offset 0: log 2. Scale 0 and offset the true log-odds of each text: the entropy of its truth.
    Nothing known: 0, with a gradient of 0.
    """

    offset: Offset = "text_prior"
    chunk: int = 64

    reduces: ClassVar[Reduces] = "rows"  # the number of known frames is that of the whole batch

    def __post_init__(self) -> None:
        if self.offset not in get_args(Offset):
            raise SpecError(f"offset={self.offset!r}: {nearest_name(self.offset, get_args(Offset))}")
        _at_least_one_text(self.chunk)

    @property
    def needs(self) -> tuple[str, ...]:
        prior = ("text_prior",) if self.offset == "text_prior" else ()
        return ("text", "frames", "events", *prior)

    def __call__(self, z: Embeddings) -> dict[str, torch.Tensor]:
        frames_BTD, mask_BT, events_BUT = z["frames_BTD"], _frame_mask(z), _events(z)
        if self.offset == "text_prior":
            offset_U = _prior(z).detach()
        else:
            offset_U = z["bias"].expand(len(z.text_UD))
        total, known = frames_BTD.new_zeros(()), torch.zeros((), dtype=torch.int64, device=frames_BTD.device)
        for at in range(0, len(z.text_UD), self.chunk):
            part = slice(at, at + self.chunk)
            given = (frames_BTD, z.text_UD[part], z.scale, offset_U[part], events_BUT[:, part], mask_BT)
            # Kept for the gradient: these six. Not kept: anything of size B x U x T.
            total = total + checkpoint(_sum_of_questions, *given, use_reentrant=False, preserve_rng_state=False)
            known = known + _known(events_BUT[:, part], mask_BT).sum()
        return {"frames": total / known.clamp(min=1)}


@dataclass(frozen=True)
class PriorBCE:
    """The log-odds of a text are taught how often it is heard (card 049).

        rho_u = share of the known frames of the batch in which text u is heard
        loss  = mean over texts of  -[ rho_u log sigmoid(text_prior_u) + (1 - rho_u) log sigmoid(-text_prior_u) ]

    Texts of which nothing is known are left out. Minimum: text_prior_u = log( rho_u / (1 - rho_u) ), where the loss is
    the entropy of rho_u. With every frame of every text known this is FrameSigmoid at scale 0, with a gradient.
    """

    needs: ClassVar[tuple[str, ...]] = ("events", "text_prior")
    reduces: ClassVar[Reduces] = "rows"

    def __call__(self, z: Embeddings) -> dict[str, torch.Tensor]:
        events_BUT, prior_U = _events(z), _prior(z)
        known_BUT = _known(events_BUT, _frame_mask(z))
        count_U = known_BUT.sum(dim=(0, 2))
        heard_U = events_BUT.masked_fill(~known_BUT, 0.0).sum(dim=(0, 2)) / count_U.clamp(min=1)
        cost_U = F.binary_cross_entropy_with_logits(prior_U, heard_U.to(prior_U.dtype), reduction="none")
        asked_U = count_U > 0
        return {"text_prior": (cost_U * asked_U).sum() / asked_U.sum().clamp(min=1)}


def _sum_of_questions(
    frames_BTD: torch.Tensor,
    text_CD: torch.Tensor,
    scale: torch.Tensor,
    offset_C: torch.Tensor,
    events_BCT: torch.Tensor,
    mask_BT: torch.Tensor,
) -> torch.Tensor:
    logits_BCT = scale * (text_CD @ frames_BTD.mT) + offset_C[:, None]
    known_BCT = _known(events_BCT, mask_BT)
    truth_BCT = events_BCT.masked_fill(~known_BCT, 0.0).to(logits_BCT.dtype)
    cost_BCT = F.binary_cross_entropy_with_logits(logits_BCT, truth_BCT, reduction="none")
    return cost_BCT.masked_fill(~known_BCT, 0.0).sum()


def _known(events_BUT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    return ~events_BUT.isnan() & mask_BT[:, None]


def _events(z: Embeddings) -> torch.Tensor:
    events_BUT = z["events_BUT"]
    clips_and_texts = (len(z.audio_BD), len(z.text_UD))
    frames = events_BUT.shape[-1] if z.frames_BTD is None else z.frames_BTD.shape[1]
    if tuple(events_BUT.shape) != (*clips_and_texts, frames):
        expected = (*clips_and_texts, frames)
        raise ClapkitError(f"events_BUT has shape {tuple(events_BUT.shape)}, expected {expected}: clips, texts, frames")
    return events_BUT


def _frame_mask(z: Embeddings) -> torch.Tensor:
    """[B, T], all True where the batch has none."""
    like = z["frames_BTD"][..., 0] if z.frames_BTD is not None else z["events_BUT"][:, 0]
    if z.frame_mask_BT is None:
        return torch.ones_like(like, dtype=torch.bool)
    if z.frame_mask_BT.shape != like.shape:
        raise ClapkitError(f"frame_mask_BT has shape {tuple(z.frame_mask_BT.shape)}, expected {tuple(like.shape)}")
    return z.frame_mask_BT


def _prior(z: Embeddings) -> torch.Tensor:
    prior_U = z["text_prior_U"]
    if tuple(prior_U.shape) != (len(z.text_UD),):
        raise ClapkitError(f"text_prior_U has shape {tuple(prior_U.shape)}, expected ({len(z.text_UD)},): one a text")
    return prior_U


def _at_least_one_text(chunk: int) -> None:
    if chunk < 1:
        raise SpecError(f"chunk is a number of texts, at least 1, not {chunk}")
