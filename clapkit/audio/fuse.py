"""Long clips as four mels of one window each, for towers with attention feature fusion (arXiv:2211.06687, card 002).

The published models draw the places of their chunks at random; here they are fixed, so that a clip has one vector.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from clapkit.errors import AudioError


def fuse_long(mel_TF: Tensor, frames: int) -> Tensor:
    """[4, frames, F]: the whole mel resized in time, then one chunk of `frames` from each third of all places.

    Each chunk starts in the middle of its third of the possible starts; a third without any start takes the first. The
    resize is bilinear between the nearest frames and does not average over those it skips, as in the published models.
    A mel of exactly `frames` frames is returned four times. Raises AudioError for a shorter one.
    """
    total = _checked(mel_TF, frames)
    shrunk_TF = F.interpolate(mel_TF[None, None], (frames, mel_TF.shape[1]), mode="bilinear")[0, 0]
    chunks = [mel_TF[start : start + frames] for start in _thirds(total - frames + 1)]
    return torch.stack([shrunk_TF, *chunks])


def crop_long(mel_TF: Tensor, frames: int) -> Tensor:
    """[4, frames, F]: the middle of the mel, then its front, middle and back (what open_clip's models were trained on).

    Raises AudioError for a mel of fewer than `frames` frames.
    """
    overflow = _checked(mel_TF, frames) - frames
    return torch.stack([mel_TF[start : start + frames] for start in (overflow // 2, 0, overflow // 2, overflow)])


def _checked(mel_TF: Tensor, frames: int) -> int:
    if mel_TF.ndim != 2 or mel_TF.shape[0] < frames or frames < 1:
        raise AudioError(
            f"mel {list(mel_TF.shape)}", f"expected [T, F] with at least {frames} frames: a shorter clip is not fused"
        )
    return mel_TF.shape[0]


def _thirds(places: int) -> list[int]:
    """The middle of each third of the starts 0 to places - 1; earlier thirds take what is left over."""
    starts, first = [], 0
    for third in range(3):
        count = (places + 2 - third) // 3
        starts.append(first + count // 2 if count else 0)
        first += count
    return starts
