"""Views on log-mel frames [T, F], applied to one clip's frames at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from clapkit.data.clip import Clip
from clapkit.errors import SpecError
from clapkit.views.audio import check_probability
from clapkit.views.base import Domain, Params


@dataclass(frozen=True)
class SpecAugment:
    """Cover stripes of time and of frequency with the mean of the clip (SpecAugment without time warp).

    Widths are shares of the whole: `time_share` 0.125 covers at most an eighth of the frames per stripe.
    """

    time_stripes: int = 2
    time_share: float = 0.125
    frequency_stripes: int = 2
    frequency_share: float = 0.125

    adds: ClassVar[tuple[str, ...]] = ()
    domain: ClassVar[Domain] = "mel"

    def __post_init__(self) -> None:
        for name in ("time_share", "frequency_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise SpecError(f"{name} is a share between 0 and 1, not {getattr(self, name)}")

    def draw(self, rng: np.random.Generator, clip: Clip, pool: Sequence[Clip]) -> Params:
        return {
            "time": _stripes(rng, self.time_stripes, self.time_share),
            "frequency": _stripes(rng, self.frequency_stripes, self.frequency_share),
        }

    def apply(self, mel_TF: np.ndarray, params: Params, pool: Mapping[str, Clip]) -> np.ndarray:
        covered = mel_TF.copy()
        if not mel_TF.size:
            return covered
        frames, bins = mel_TF.shape
        fill = mel_TF.mean()
        for start, width in params["time"]:
            covered[round(start * frames) : round((start + width) * frames), :] = fill
        for start, width in params["frequency"]:
            covered[:, round(start * bins) : round((start + width) * bins)] = fill
        return covered


def _stripes(rng: np.random.Generator, count: int, share: float) -> list[tuple[float, float]]:
    """(start, width) of each stripe as shares of the axis."""
    widths = rng.uniform(0.0, share, count)
    return [(float(rng.uniform(0.0, 1.0 - w)), float(w)) for w in widths]


@dataclass(frozen=True)
class Stretch:
    """Stretch or squeeze the frames along time by a factor, and move them along the mel axis by a few bins.

    A cheap stand-in for playing the sound faster, slower, higher or lower. Time: the factor is exp(u) with u uniform
    in [-log_time, log_time]; the length stays, a squeezed clip is continued by its own start. Frequency: a whole number
    of bins up or down, the edge bin repeated. Harms captions that name a tempo or a pitch.
    """

    log_time: float = 0.15
    bins: int = 2
    p: float = 0.7

    adds: ClassVar[tuple[str, ...]] = ()
    domain: ClassVar[Domain] = "mel"

    def __post_init__(self) -> None:
        check_probability(self.p)

    def draw(self, rng: np.random.Generator, clip: Clip, pool: Sequence[Clip]) -> Params:
        if rng.random() >= self.p:
            return {"time": 1.0, "bins": 0}
        factor = float(np.exp(rng.uniform(-self.log_time, self.log_time)))
        return {"time": factor, "bins": int(rng.integers(-self.bins, self.bins + 1))}

    def apply(self, mel_TF: np.ndarray, params: Params, pool: Mapping[str, Clip]) -> np.ndarray:
        frames, bins = mel_TF.shape
        out = mel_TF
        if params["time"] != 1.0 and frames > 1:
            position = (np.arange(frames, dtype=np.float32) * np.float32(params["time"])) % np.float32(frames - 1)
            low = position.astype(np.int64)
            weight = (position - low)[:, None].astype(mel_TF.dtype)
            out = mel_TF[low] * (1 - weight) + mel_TF[low + 1] * weight
        if params["bins"]:
            out = out[:, np.clip(np.arange(bins) - params["bins"], 0, bins - 1)]
        return out


@dataclass(frozen=True)
class PatchMask:
    """Cover a share of the patches of the frames with the mean of the clip, patches drawn without regard to each other.

    For encoders that learn from what is left (masked modelling, FLAP, card 024: there the tokens are dropped, here they
    are covered and keep their place). Patches are `frames` x `bins`, cut at the end and at the top; round(share * their
    number) of them are covered. No caption becomes false, but a short event may vanish: keep the share small for those.
    """

    share: float = 0.3
    frames: int = 16
    bins: int = 16

    adds: ClassVar[tuple[str, ...]] = ()
    domain: ClassVar[Domain] = "mel"

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise SpecError(f"share is a share between 0 and 1, not {self.share}")
        for name in ("frames", "bins"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name} is the size of a patch, at least 1, not {getattr(self, name)}")

    def draw(self, rng: np.random.Generator, clip: Clip, pool: Sequence[Clip]) -> Params:
        return {"seed": int(rng.integers(2**31))}  # how many patches there are is known when the frames are

    def apply(self, mel_TF: np.ndarray, params: Params, pool: Mapping[str, Clip]) -> np.ndarray:
        covered = mel_TF.copy()
        if not mel_TF.size:
            return covered
        rows, columns = (-(-size // patch) for size, patch in zip(mel_TF.shape, (self.frames, self.bins), strict=True))
        chosen = np.zeros(rows * columns, bool)
        order = np.random.default_rng(params["seed"]).permutation(rows * columns)
        chosen[order[: round(self.share * rows * columns)]] = True
        cells = chosen.reshape(rows, columns).repeat(self.frames, 0).repeat(self.bins, 1)
        covered[cells[: mel_TF.shape[0], : mel_TF.shape[1]]] = mel_TF.mean()
        return covered
