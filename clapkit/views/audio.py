"""Views on samples: where the sound starts, how loud it is, what noise lies under it.

Every `apply` takes and returns a clip whose `audio` is a mono float32 array at model rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from clapkit.data.clip import Clip
from clapkit.errors import SpecError
from clapkit.units import db_to_gain
from clapkit.views.base import Domain, MelForm, Params


def check_probability(p: float) -> None:
    """Refuse a probability outside [0, 1]."""
    if not 0.0 <= p <= 1.0:
        raise SpecError(f"p is a probability between 0 and 1, not {p}")


def samples_of(clip: Clip) -> np.ndarray:
    """The samples of a clip; whoever applies audio views has decoded it."""
    assert isinstance(clip.audio, np.ndarray), f"{clip.id} is not decoded yet"
    return clip.audio


def rms(samples: np.ndarray) -> float:
    """Root mean square of samples; 0 for none."""
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0


@dataclass(frozen=True)
class TimeShift:
    """Rotate the clip: what falls out at the end comes in at the start (events and order wrap around too).

    Harms captions that tell an order or a position in time; leave it out for those.
    """

    p: float = 1.0

    adds: ClassVar[tuple[str, ...]] = ()
    domain: ClassVar[Domain] = "audio"

    def __post_init__(self) -> None:
        check_probability(self.p)

    def draw(self, rng: np.random.Generator, clip: Clip, pool: Sequence[Clip]) -> Params:
        return {"fraction": float(rng.random()) if rng.random() < self.p else 0.0}

    def apply(self, clip: Clip, params: Params, pool: Mapping[str, Clip]) -> Clip:
        shift = round(params["fraction"] * len(samples_of(clip)))
        if shift == 0:
            return clip
        return clip.with_(audio=np.roll(samples_of(clip), shift), events=())


@dataclass(frozen=True)
class Gain:
    """Change the level by a uniform draw between two dB values; samples may leave [-1, 1].

    Harms captions that say how loud the whole clip is ("quiet", "far away"); a difference inside the clip stays.
    """

    low_db: float = -12.0
    high_db: float = 6.0
    p: float = 1.0

    adds: ClassVar[tuple[str, ...]] = ()
    domain: ClassVar[Domain] = "audio"
    mel_form: ClassVar[MelForm] = "factor"

    def __post_init__(self) -> None:
        check_probability(self.p)
        if self.low_db > self.high_db:
            raise SpecError(f"low_db={self.low_db} lies above high_db={self.high_db}")

    def factor(self, params: Params) -> float:
        """What the samples are multiplied by."""
        return db_to_gain(params["gain_db"])

    def draw(self, rng: np.random.Generator, clip: Clip, pool: Sequence[Clip]) -> Params:
        return {"gain_db": float(rng.uniform(self.low_db, self.high_db)) if rng.random() < self.p else 0.0}

    def apply(self, clip: Clip, params: Params, pool: Mapping[str, Clip]) -> Clip:
        if params["gain_db"] == 0.0:
            return clip
        return clip.with_(audio=samples_of(clip) * np.float32(self.factor(params)))


@dataclass(frozen=True)
class NoiseAtSNR:
    """Add coloured noise at a signal-to-noise ratio drawn between two dB values.

    `colours` are exponents of the power spectrum 1/f^c: 0 white, 1 pink, 2 brown. A silent clip stays silent.
    Harms captions that speak of silence or of a clean recording.
    """

    low_db: float = 5.0
    high_db: float = 30.0
    colours: tuple[float, ...] = (0.0, 1.0, 2.0)
    p: float = 0.5

    adds: ClassVar[tuple[str, ...]] = ()
    domain: ClassVar[Domain] = "audio"

    def __post_init__(self) -> None:
        check_probability(self.p)
        if self.low_db > self.high_db:
            raise SpecError(f"low_db={self.low_db} lies above high_db={self.high_db}")
        if not self.colours:
            raise SpecError("colours is empty: give at least one exponent, for example (0.0,) for white noise")

    def draw(self, rng: np.random.Generator, clip: Clip, pool: Sequence[Clip]) -> Params:
        if rng.random() >= self.p:
            return {}
        return {
            "snr_db": float(rng.uniform(self.low_db, self.high_db)),
            "colour": float(self.colours[int(rng.integers(len(self.colours)))]),
            "seed": int(rng.integers(2**31)),
        }

    def apply(self, clip: Clip, params: Params, pool: Mapping[str, Clip]) -> Clip:
        level = rms(samples_of(clip))
        if not params or level == 0.0:
            return clip
        noise = _coloured_noise(len(samples_of(clip)), params["colour"], params["seed"])
        wanted = level / db_to_gain(params["snr_db"])
        return clip.with_(audio=samples_of(clip) + noise * np.float32(wanted / max(rms(noise), 1e-12)))


def _coloured_noise(count: int, exponent: float, seed: int) -> np.ndarray:
    """`count` samples of noise with power spectrum 1/f^exponent, of arbitrary level."""
    white = np.random.default_rng(seed).standard_normal(count, dtype=np.float32)
    if exponent == 0.0 or count < 4:
        return white
    spectrum = np.fft.rfft(white)
    bins = np.arange(1, len(spectrum), dtype=np.float32)
    spectrum[1:] *= bins ** (-exponent / 2)
    spectrum[0] = 0.0
    return np.fft.irfft(spectrum, n=count).astype(np.float32)
