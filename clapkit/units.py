"""Conversions between units, each named after what it turns into what."""

from __future__ import annotations

import math


def seconds_to_samples(duration_s: float, rate_hz: int) -> int:
    """Number of samples in `duration_s` seconds at `rate_hz`, rounded to the nearest sample."""
    return round(duration_s * rate_hz)


def samples_to_seconds(count: int, rate_hz: int) -> float:
    """Duration in seconds of `count` samples at `rate_hz`."""
    return count / rate_hz


def samples_to_frames(count: int, hop_samples: int) -> int:
    """Frames of a centred short-time transform over `count` samples: one at every hop, the first at sample 0."""
    return count // hop_samples + 1


def db_to_gain(level_db: float) -> float:
    """Amplitude factor of a level difference in dB (-6 dB -> 0.501)."""
    return 10.0 ** (level_db / 20.0)


def gain_to_db(gain: float, floor_db: float = -200.0) -> float:
    """Level difference in dB of an amplitude factor; zero and below give `floor_db`."""
    return max(floor_db, 20.0 * math.log10(gain)) if gain > 0 else floor_db


def hz_to_mel_htk(frequency_hz: float) -> float:
    """HTK mel scale: 2595 log10(1 + f / 700)."""
    return 2595.0 * math.log10(1.0 + frequency_hz / 700.0)


def mel_to_hz_htk(mel: float) -> float:
    """Inverse of `hz_to_mel_htk`."""
    return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)


_SLANEY_STEP_HZ = 200.0 / 3.0  # linear below 1 kHz ...
_SLANEY_CORNER_HZ = 1000.0
_SLANEY_CORNER_MEL = _SLANEY_CORNER_HZ / _SLANEY_STEP_HZ
_SLANEY_LOG_STEP = math.log(6.4) / 27.0  # ... and 27 steps for a factor of 6.4 above


def hz_to_mel_slaney(frequency_hz: float) -> float:
    """Slaney (Auditory Toolbox) mel scale: linear below 1 kHz, logarithmic above."""
    if frequency_hz < _SLANEY_CORNER_HZ:
        return frequency_hz / _SLANEY_STEP_HZ
    return _SLANEY_CORNER_MEL + math.log(frequency_hz / _SLANEY_CORNER_HZ) / _SLANEY_LOG_STEP


def mel_to_hz_slaney(mel: float) -> float:
    """Inverse of `hz_to_mel_slaney`."""
    if mel < _SLANEY_CORNER_MEL:
        return mel * _SLANEY_STEP_HZ
    return _SLANEY_CORNER_HZ * math.exp(_SLANEY_LOG_STEP * (mel - _SLANEY_CORNER_MEL))
