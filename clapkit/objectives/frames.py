"""Frames against texts: is this text heard *now*?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from clapkit.errors import ClapkitError, SpecError, nearest_name
from clapkit.objectives.base import Embeddings, Reduces
from clapkit.objectives.contrast import Scores, both_ways, check_share, softmax_cost, wide

Offset = Literal["text_prior", "bias"]
Steepness = Literal["scale", "text_scale"]


@dataclass(frozen=True)
class FrameSigmoid:
    """FLAM's frame loss: one yes-or-no question for every frame and text of the batch (card 049).

    With e in {0, 1} the truth and x_bt, y_u a frame and a text, over all (b, u, t) whose truth is known:

        h_but = steepness_u * x_bt . y_u + offset_u
        loss  = mean of  -[ e log sigmoid(h) + (1 - e) log sigmoid(-h) ]

    offset       "text_prior": the log-odds of each text (text_prior_U), held still here: PriorBCE teaches it, so that
                 scale and vectors have to learn the rest.  "bias": the one learned bias of the model
    steepness    "scale": the one of the model, also that of other objectives.  "text_scale": of each text its own
                 (text_scale_U), as published; both numbers of a text come from a `heads.framewise.FramewiseHead`
    chunk_texts  so many texts at a time: their logits are made again for the gradient and never stand in memory
                 together. The result does not depend on it

    NaN in events_BUT, False in frame_mask_BT: not known, no part of the mean. FLAM weighs it by 200 beside InfoNCE.
    Relations. One frame a clip, events = the target, "bias": the pairwise sigmoid loss (card 034) over U, averaged.
    All texts of one steepness, the scale: the same with "scale".
    Limits. Scale 0 and offset 0: log 2. Scale 0 and offset the true log-odds of each text: the entropy of its truth.
    Nothing known: 0, with a gradient of 0.
    """

    offset: Offset = "text_prior"
    chunk_texts: int = 64
    steepness: Steepness = field(default="scale", metadata={"omit_default": True})

    reduces: ClassVar[Reduces] = "rows"  # the number of known frames is that of the whole batch

    def __post_init__(self) -> None:
        if self.offset not in get_args(Offset):
            raise SpecError(f"offset={self.offset!r}: {nearest_name(self.offset, get_args(Offset))}")
        if self.steepness not in get_args(Steepness):
            raise SpecError(f"steepness={self.steepness!r}: {nearest_name(self.steepness, get_args(Steepness))}")
        _at_least_one_text(self.chunk_texts)

    @property
    def needs(self) -> tuple[str, ...]:
        prior = ("text_prior",) if self.offset == "text_prior" else ()
        steepness = ("text_scale",) if self.steepness == "text_scale" else ()
        return ("text", "frames", "events", *prior, *steepness)

    def __call__(self, z: Embeddings) -> dict[str, torch.Tensor]:
        frames_BTD, text_UD, mask_BT, events_BUT = wide(z["frames_BTD"]), wide(z.text_UD), _frame_mask(z), _events(z)
        if self.offset == "text_prior":
            offset_U = _one_a_text(z, "text_prior_U").detach()
        else:
            offset_U = z["bias"].expand(len(text_UD))
        scale_U = z.scale.expand(len(text_UD)) if self.steepness == "scale" else _one_a_text(z, "text_scale_U")
        total, known = frames_BTD.new_zeros(()), torch.zeros((), dtype=torch.int64, device=frames_BTD.device)
        for at in range(0, len(text_UD), self.chunk_texts):
            part = slice(at, at + self.chunk_texts)
            given = (frames_BTD, text_UD[part], scale_U[part], offset_U[part], events_BUT[:, part], mask_BT)
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
        events_BUT, prior_U = _events(z), _one_a_text(z, "text_prior_U")
        known_BUT = _known(events_BUT, _frame_mask(z))
        count_U = known_BUT.sum(dim=(0, 2))
        heard_U = events_BUT.masked_fill(~known_BUT, 0.0).sum(dim=(0, 2)) / count_U.clamp(min=1)
        cost_U = F.binary_cross_entropy_with_logits(prior_U, heard_U.to(prior_U.dtype), reduction="none")
        asked_U = count_U > 0
        return {"text_prior": (cost_U * asked_U).sum() / asked_U.sum().clamp(min=1)}


@dataclass(frozen=True)
class AttendedNCE:
    """InfoNCE in which every text picks the frames that it is compared with (CoLLAP's temporal attention, card 015).

        S_bu = sum_t w_but c_but,    c_but = x_bt . y_u,    w_bu. = softmax_t( c_bu. / temperature )
        loss = InfoNCE with scale * S in the place of scale * cosine

    over the frames that frame_mask_BT leaves; for long sound a frame is the vector of a window. Its denominators are
    those of InfoNCE, but for audio_negative_FD and audio_private_UKD: wrong sounds have no frames here.

    temperature   above 0, of the attention. To infinity: the mean over frames. To 0: the best frame
    balance       as in InfoNCE
    chunk_texts   so many texts at a time: their cosines are made again for the gradient; no change of the result

    Relations. One frame a clip: InfoNCE on the frames. The order of the frames does not matter. The published score
    also adds that of a pooled vector: beside this, `InfoNCE` on the pooled vectors says the same of its own.
    """

    temperature: float = 0.1
    balance: float = 0.5
    chunk_texts: int = 64

    needs: ClassVar[tuple[str, ...]] = ("text", "frames")
    reduces: ClassVar[Reduces] = "rows"

    def __post_init__(self) -> None:
        if not 0.0 < self.temperature < float("inf"):
            raise SpecError(f"temperature is a finite number above 0, not {self.temperature}")
        check_share("balance", self.balance)
        _at_least_one_text(self.chunk_texts)

    def __call__(self, z: Embeddings) -> dict[str, torch.Tensor]:
        mask_BT = _frame_mask(z)
        if not bool(mask_BT.any(1).all()):
            empty = int((~mask_BT.any(1)).nonzero()[0])
            raise ClapkitError(
                f"clip {empty} of the batch has no frame that frame_mask_BT leaves: nothing to attend to"
            )
        extra = []
        if z.text_negative_ED is not None and len(z.text_negative_ED):
            extra.append(self._logits(z, z.text_negative_ED, mask_BT))
        if z.text_private_BKD is not None and z.text_private_BKD.shape[1]:
            own_BK = z.scale * _attended(wide(z["frames_BTD"]), wide(z.text_private_BKD), mask_BT, self.temperature)
            extra.append(own_BK if z.private_BK is None else own_BK.masked_fill(~z.private_BK.bool(), -torch.inf))
        here = Scores(
            logits_BU=self._logits(z, z.text_UD, mask_BT),
            target_BU=wide(z.target_BU()),
            counted_BU=None if z.include_BU is None else z.include_BU.bool(),
            to_text_BE=torch.cat(extra, dim=1) if extra else None,
        )
        there = here.turned()
        return both_ways(
            softmax_cost(here.logits_BU, here.target_BU, counted_RC=here.counted_BU, extra_RE=here.to_text_BE),
            softmax_cost(there.logits_BU, there.target_BU, counted_RC=there.counted_BU),
            balance=self.balance,
        )

    def _logits(self, z: Embeddings, text_CD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        frames_BTD = wide(z["frames_BTD"])
        parts = [
            checkpoint(
                _attended, frames_BTD, part, mask_BT, self.temperature, use_reentrant=False, preserve_rng_state=False
            )
            for part in wide(text_CD).split(self.chunk_texts)
        ]
        return z.scale * torch.cat(parts, dim=1)


def _attended(
    frames_BTD: torch.Tensor, text_xCD: torch.Tensor, mask_BT: torch.Tensor, temperature: float
) -> torch.Tensor:
    """[B, C]; `text_xCD` is [C, D], the same texts for every clip, or [B, C, D]."""
    cosine_BCT = text_xCD @ frames_BTD.mT
    weight_BCT = (cosine_BCT / temperature).masked_fill(~mask_BT[:, None], -torch.inf).softmax(dim=2)
    return (weight_BCT * cosine_BCT).sum(2)


def _sum_of_questions(
    frames_BTD: torch.Tensor,
    text_CD: torch.Tensor,
    scale_C: torch.Tensor,
    offset_C: torch.Tensor,
    events_BCT: torch.Tensor,
    mask_BT: torch.Tensor,
) -> torch.Tensor:
    logits_BCT = scale_C[:, None] * (text_CD @ frames_BTD.mT) + offset_C[:, None]
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
    return z.frame_mask_BT.bool()


def _one_a_text(z: Embeddings, name: str) -> torch.Tensor:
    value_U = z[name]
    if tuple(value_U.shape) != (len(z.text_UD),):
        raise ClapkitError(f"{name} has shape {tuple(value_U.shape)}, expected ({len(z.text_UD)},): one a text")
    return value_U


def _at_least_one_text(chunk_texts: int) -> None:
    if chunk_texts < 1:
        raise SpecError(f"chunk_texts is a number of texts, at least 1, not {chunk_texts}")
