"""How far a model in one runtime is from the same model in another, over sounds and texts that are made on the spot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from clapkit.runtime.program import Program

TEXTS = (
    "a dog barks twice",
    "rain",
    "The sound of a church bell far away, while people talk in the street and a car goes past.",
    "",
    "café naïve 雨の音 🎵",
)


def sounds(rate_hz: int, window: int) -> list[np.ndarray]:
    """Windows that a front-end may meet: noise, a sweep, clicks, a quiet tone, silence; full, short, and very short."""
    rng = np.random.default_rng(20261123)
    seconds = np.arange(window) / rate_hz
    noise = 0.1 * rng.standard_normal(window)
    top_hz = 0.45 * rate_hz
    sweep = 0.8 * np.sin(np.pi * top_hz * seconds**2 / seconds[-1]) if window > 1 else noise
    clicks = (np.arange(window) % max(1, rate_hz // 7) == 0).astype(np.float64)
    quiet = 1e-4 * np.sin(2 * np.pi * 440.0 * seconds) + 1e-6 * noise
    loud = np.clip(3.0 * np.sin(2 * np.pi * 97.0 * seconds), -1.2, 1.2)
    whole = [noise, sweep, clicks, quiet, loud, np.zeros(window)]
    parts = [noise[: max(1, window // 3)], sweep[: max(1, window // 20)], noise[: max(1, rate_hz // 50)]]
    return [sound.astype(np.float32) for sound in (*whole, *parts)]


def measure(ours: Program, reference: Program, *, tokens: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Lowest cosine and largest difference of a coordinate, for sound and (if there are `tokens`) for language.

    tokens   (ids_BL, mask_BL) of texts
    """
    heard = sounds(reference.rate_hz, reference.window)
    batches = [heard[:4], heard[4:5], heard[5:]]
    report = {
        "audio": _difference(
            [ours.encode_windows(batch) for batch in batches], [reference.encode_windows(batch) for batch in batches]
        )
    }
    if tokens:
        report["text"] = _difference(
            [ours.encode_tokens(*batch) for batch in tokens], [reference.encode_tokens(*batch) for batch in tokens]
        )
    return report


def _difference(ours: list[np.ndarray], reference: list[np.ndarray]) -> dict[str, Any]:
    a_ND, b_ND = (np.concatenate(x).astype(np.float64) for x in (ours, reference))
    cosine_N = (a_ND * b_ND).sum(1) / (np.linalg.norm(a_ND, axis=1) * np.linalg.norm(b_ND, axis=1))
    return {
        "count": len(a_ND),
        "lowest_cosine": float(cosine_N.min()),
        "largest_error": float(np.abs(a_ND - b_ND).max()),
    }
