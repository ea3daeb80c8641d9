"""Views on the way a sound takes to the listener: the room, the line, the speed of the tape, the number of bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np

from clapkit.audio.resample import resample
from clapkit.data.clip import Clip, Event
from clapkit.errors import SpecError, nearest_name
from clapkit.units import seconds_to_samples
from clapkit.views.audio import check_probability, rms, samples_of
from clapkit.views.base import Domain, MelForm, Params
from clapkit.views.partners import check_range, rate_of

_DECAY_60_DB = 3.0 * np.log(10.0)  # exp of minus this is -60 dB in amplitude
_LONGEST_S = 3.0  # of an impulse response
_MU = 255.0
_SLOPE = 4  # order of the filters: 24 dB an octave
_TELEPHONE_HZ = (300.0, 3400.0)

BandKind = Literal["low_pass", "high_pass", "telephone"]
Law = Literal["mu", "linear"]


@dataclass(frozen=True)
class Room:
    """The clip as heard in a room: convolved with noise that decays exponentially, by 60 dB in `rt60_s` seconds.

    The direct sound stays where it is and lies `direct_db` above the reverberation (in energy); length and rms stay,
    the tail is cut. A synthetic impulse response in the manner of the waveform chain of annex A of the cards.

    Makes false: dry, close, outdoors, the name of another room; short or sudden ends become doubtful.
    """

    rt60_s: tuple[float, float] = (0.15, 0.9)
    direct_db: tuple[float, float] = (-3.0, 12.0)
    p: float = 0.3

    adds: ClassVar[tuple[str, ...]] = ()
    domain: ClassVar[Domain] = "audio"

    def __post_init__(self) -> None:
        check_probability(self.p)
        check_range("rt60_s", self.rt60_s)
        check_range("direct_db", self.direct_db)
        if self.rt60_s[0] <= 0.0:
            raise SpecError(f"rt60_s={self.rt60_s}: a decay takes more than 0 seconds")

    def draw(self, rng: np.random.Generator, clip: Clip, pool: Sequence[Clip]) -> Params:
        if rng.random() >= self.p:
            return {}
        return {
            "rt60_s": float(rng.uniform(*self.rt60_s)),
            "direct_db": float(rng.uniform(*self.direct_db)),
            "seed": int(rng.integers(2**31)),
        }

    def apply(self, clip: Clip, params: Params, pool: Mapping[str, Clip]) -> Clip:
        dry = samples_of(clip)
        if not params or rms(dry) == 0.0:
            return clip
        response = impulse_response(
            params["rt60_s"], direct_db=params["direct_db"], seed=params["seed"], rate_hz=rate_of(clip)
        )
        size = transform_length(len(dry) + len(response) - 1)
        wet = np.fft.irfft(np.fft.rfft(dry, size) * np.fft.rfft(response, size), size)[: len(dry)]
        return clip.with_(audio=(wet * (rms(dry) / max(rms(wet), 1e-12))).astype(np.float32))


def impulse_response(rt60_s: float, *, direct_db: float, seed: int, rate_hz: int) -> np.ndarray:
    """[N] of a room: 1 at sample 0, then decaying noise of `seed`, in all `direct_db` below it in energy."""
    count = max(2, seconds_to_samples(min(1.2 * rt60_s, _LONGEST_S), rate_hz))
    time_s = np.arange(count) / rate_hz
    tail = np.random.default_rng(seed).standard_normal(count) * np.exp(-_DECAY_60_DB * time_s / rt60_s)
    tail[0] = 0.0
    tail *= 10.0 ** (-direct_db / 20.0) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    return tail


def transform_length(count: int) -> int:
    """The smallest product of 2s, 3s and 5s from `count` on: a Fourier transform of a prime length takes 20 times as
    long."""
    best = 1 << (count - 1).bit_length()
    fives = 1
    while fives < best:
        odd = fives
        while odd < best:
            best = min(best, odd << (-(-count // odd) - 1).bit_length())
            odd *= 3
        fives *= 5
    return best


@dataclass(frozen=True)
class Speed:
    """The clip played faster or slower, as a tape is: tempo and pitch change together (annex A of the cards).

    The factor is drawn between `slowest` and `fastest`, evenly in its logarithm. A slowed clip is cut to the length it
    had, a quickened one is shorter. Events move along; those cut off are left out.

    Makes false: a tempo, a pitch, a length, the age or sex of a voice. Leave it out for clips described by those.
    """

    slowest: float = 0.9
    fastest: float = 1.1
    p: float = 0.3

    adds: ClassVar[tuple[str, ...]] = ()
    domain: ClassVar[Domain] = "audio"

    def __post_init__(self) -> None:
        check_probability(self.p)
        if not 0.1 <= self.slowest <= self.fastest <= 10.0:
            raise SpecError(
                f"slowest={self.slowest}, fastest={self.fastest}: give factors in this order, from 0.1 to 10"
            )

    def draw(self, rng: np.random.Generator, clip: Clip, pool: Sequence[Clip]) -> Params:
        if rng.random() >= self.p:
            return {}
        return {"factor": float(np.exp(rng.uniform(np.log(self.slowest), np.log(self.fastest))))}

    def apply(self, clip: Clip, params: Params, pool: Mapping[str, Clip]) -> Clip:
        if not params:
            return clip
        samples, rate_hz = samples_of(clip), rate_of(clip)
        # As if it had been recorded at another rate; whole Hz is what the resampler takes.
        recorded_hz = round(rate_hz * params["factor"])
        played = resample(samples, recorded_hz, rate_hz)[: len(samples)]
        factor, length_s = recorded_hz / rate_hz, len(played) / rate_hz
        moved = (Event(e.label, e.onset_s / factor, min(length_s, e.offset_s / factor)) for e in clip.events)
        return clip.with_(audio=played, events=tuple(e for e in moved if e.onset_s < e.offset_s))


@dataclass(frozen=True)
class Band:
    """Take away the top, the bottom, or both as a telephone does (300 to 3400 Hz).

    Filters without delay, 24 dB an octave, -3 dB at the corner, which is drawn evenly on a logarithmic scale. A corner
    above half the sample rate takes nothing away.

    Makes false: bright, dull, deep, thin, full, "over the phone" of the opposite kind.
    """

    kinds: tuple[BandKind, ...] = ("low_pass", "high_pass", "telephone")
    low_pass_hz: tuple[float, float] = (2000.0, 8000.0)
    high_pass_hz: tuple[float, float] = (80.0, 600.0)
    p: float = 0.2

    adds: ClassVar[tuple[str, ...]] = ()
    domain: ClassVar[Domain] = "audio"

    def __post_init__(self) -> None:
        check_probability(self.p)
        _check_kinds("kinds", self.kinds, get_args(BandKind))
        for name in ("low_pass_hz", "high_pass_hz"):
            check_range(name, getattr(self, name))
            if getattr(self, name)[0] <= 0.0:
                raise SpecError(f"{name}={getattr(self, name)}: a corner lies above 0 Hz")

    def draw(self, rng: np.random.Generator, clip: Clip, pool: Sequence[Clip]) -> Params:
        if rng.random() >= self.p:
            return {}
        kind = self.kinds[int(rng.integers(len(self.kinds)))]
        if kind == "telephone":
            return {"above_hz": _TELEPHONE_HZ[0], "below_hz": _TELEPHONE_HZ[1]}
        low, high = np.log(self.low_pass_hz if kind == "low_pass" else self.high_pass_hz)
        corner_hz = float(np.exp(rng.uniform(low, high)))
        return {"below_hz": corner_hz} if kind == "low_pass" else {"above_hz": corner_hz}

    def apply(self, clip: Clip, params: Params, pool: Mapping[str, Clip]) -> Clip:
        samples = samples_of(clip)
        if not params or not len(samples):
            return clip
        # Silence behind the clip keeps its end from ringing into its beginning.
        size = transform_length(len(samples) + seconds_to_samples(0.05, rate_of(clip)))
        frequency_hz = np.fft.rfftfreq(size, 1.0 / rate_of(clip))
        gain = np.ones_like(frequency_hz)
        if "below_hz" in params and params["below_hz"] < rate_of(clip) / 2:
            gain /= np.sqrt(1.0 + (frequency_hz / params["below_hz"]) ** (2 * _SLOPE))
        if "above_hz" in params:
            falling = (frequency_hz / params["above_hz"]) ** (2 * _SLOPE)
            gain *= np.sqrt(falling / (1.0 + falling))
        filtered = np.fft.irfft(np.fft.rfft(samples, size) * gain, size)[: len(samples)]
        return clip.with_(audio=filtered.astype(np.float32))


@dataclass(frozen=True)
class EightBits:
    """The clip through eight bits a sample, as cheap codecs leave it: evenly spaced steps, or the mu-law of telephony.

    linear    256 steps of 1/128
    mu        companded with mu = 255, 127 even steps on either side of zero there, expanded again: fine where soft

    Samples beyond full scale are clipped. Makes false: a clean or noiseless recording, silence between events.
    """

    laws: tuple[Law, ...] = ("mu", "linear")
    p: float = 0.2

    adds: ClassVar[tuple[str, ...]] = ()
    domain: ClassVar[Domain] = "audio"

    def __post_init__(self) -> None:
        check_probability(self.p)
        _check_kinds("laws", self.laws, get_args(Law))

    def draw(self, rng: np.random.Generator, clip: Clip, pool: Sequence[Clip]) -> Params:
        if rng.random() >= self.p:
            return {}
        return {"law": self.laws[int(rng.integers(len(self.laws)))]}

    def apply(self, clip: Clip, params: Params, pool: Mapping[str, Clip]) -> Clip:
        if not params:
            return clip
        samples = np.clip(samples_of(clip), -1.0, 1.0).astype(np.float64)
        if params["law"] == "linear":
            coded = np.clip(np.round(samples * 128.0), -128, 127) / 128.0
        else:
            small = np.sign(samples) * np.log1p(_MU * np.abs(samples)) / np.log1p(_MU)
            steps = np.round(small * 127.0) / 127.0
            coded = np.sign(steps) * np.expm1(np.abs(steps) * np.log1p(_MU)) / _MU
        return clip.with_(audio=coded.astype(np.float32))


@dataclass(frozen=True)
class Polarity:
    """Turn the wave upside down: nobody hears it, and no caption becomes false.

    A power spectrum does not see it; towers that read samples do.
    """

    p: float = 0.5

    adds: ClassVar[tuple[str, ...]] = ()
    domain: ClassVar[Domain] = "audio"
    mel_form: ClassVar[MelForm] = "same"

    def __post_init__(self) -> None:
        check_probability(self.p)

    def draw(self, rng: np.random.Generator, clip: Clip, pool: Sequence[Clip]) -> Params:
        return {"turned": bool(rng.random() < self.p)}

    def apply(self, clip: Clip, params: Params, pool: Mapping[str, Clip]) -> Clip:
        return clip.with_(audio=-samples_of(clip)) if params["turned"] else clip


def _check_kinds(field: str, kinds: Sequence[str], known: Sequence[str]) -> None:
    if not kinds:
        raise SpecError(f"{field} is empty: give at least one of {', '.join(known)}")
    for kind in kinds:
        if kind not in known:
            raise SpecError(f"{field} has no '{kind}'; {nearest_name(str(kind), list(known))}")
