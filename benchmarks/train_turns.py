"""Steps of several arms in turns, and what the times of them say: for the train_*.py beside this file.

Arms take turns step by step, so that other work on the machine slows all alike. The first round warms up and is thrown
away. A ratio is one of medians; its interval is a bootstrap of the rounds, each drawn with both of its steps.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np


def in_turns(arms: Mapping[str, Callable[[int], object]], *, budget_s: float, rounds: int = 3) -> dict[str, np.ndarray]:
    """Seconds of each step of each arm, in as many rounds as fit into the time, at least `rounds` that count."""
    took: dict[str, list[float]] = {name: [] for name in arms}
    deadline, number = time.perf_counter() + budget_s, 0
    while number < rounds + 1 or time.perf_counter() < deadline:
        for name, step in arms.items():
            started = time.perf_counter()
            step(number)
            took[name].append(time.perf_counter() - started)
        number += 1
    return {name: np.array(times[1:]) for name, times in took.items()}


def ratio(slow_s: np.ndarray, quick_s: np.ndarray) -> dict[str, float]:
    """How many times as long the first takes, with a 95 % interval."""
    rows = np.random.default_rng(0).integers(len(slow_s), size=(2000, len(slow_s)))
    drawn = np.median(slow_s[rows], axis=1) / np.median(quick_s[rows], axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    found = float(np.median(slow_s) / np.median(quick_s))
    return {"ratio": round(found, 3), "low": round(float(low), 3), "high": round(float(high), 3)}


def write_part(path: Path, name: str, part: Any) -> None:
    """Put one part of a result into its file; the others stay."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**known, name: part}, indent=2) + "\n", encoding="utf-8")
