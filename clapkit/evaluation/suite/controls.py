"""Scores that a sound evaluation has to refuse: a model asked about the wrong sounds, and shuffled answers.

Both have to lie at chance. If one does not, something besides the sound answers: the order of a list, a leak of labels
into names, a bug in a metric.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from clapkit.evaluation.metrics import top_k_hits
from clapkit.evaluation.report import Result

OTHER_SOUND, SHUFFLED = "other-sound", "shuffled"
_ERRORS = 4.0  # standard errors that a control may be away from chance: one in 16,000 by accident


def other_sounds(groups: Sequence[Any], *, seed: int) -> np.ndarray:
    """For each of N clips the number of another one, each used once, from another recording wherever that is possible.

    With the vectors of those, the texts are all that a model has: a control of text alone.
    """
    rng = np.random.default_rng([seed, 1])
    number = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    place_of = rng.permutation(len(number))
    group_N = np.array([place_of[number[name]] for name in groups])
    # Recordings lie side by side, in an order by chance; a step as long as the longest of them leaves each of them.
    shuffled_N = rng.permutation(len(group_N))
    ordered_N = shuffled_N[np.argsort(group_N[shuffled_N], kind="stable")]
    found_N = np.empty(len(group_N), np.int64)
    step = int(np.bincount(group_N).max()) % len(group_N) or 1
    found_N[ordered_N] = np.roll(ordered_N, -step)
    return found_N


def shuffled(count: int, *, seed: int) -> np.ndarray:
    """A permutation of `count` answers."""
    return np.random.default_rng([seed, 2]).permutation(count)


def answered_by_accident(scores_NC: np.ndarray, truth_N: np.ndarray, *, k: int, macro: bool = False) -> float:
    """How often the k best classes hold the true one when answers are dealt out anew: what a control has to reach.

    It is 1 / classes only where classes have equally many clips or are equally often the answer. macro: the mean over
    the classes that have clips, which is 1 / classes only where answers keep to no part of them.
    """
    clips_C = np.bincount(truth_N, minlength=scores_NC.shape[1])
    said = [top_k_hits(scores_NC, np.full(len(truth_N), c), k=k).mean() if n else 0.0 for c, n in enumerate(clips_C)]
    weight_C = (clips_C > 0).astype(float) if macro else clips_C
    return float((np.array(said) * weight_C).sum() / weight_C.sum())


def control_json(result: Result, *, chance: Mapping[str, float] | None = None) -> dict[str, Any]:
    """The scores of a control, and whether all of them lie where guessing does.

    chance   metric -> what these answers reach by accident, where that is not what a blind guess does
    """
    better = {name: replace(result.metrics[name], chance=value) for name, value in (chance or {}).items()}
    result = replace(result, metrics={**result.metrics, **better})
    told = result.to_json()
    return {"n": told["n"], "metrics": told["metrics"], "at_chance": all(at_chance(result).values())}


def at_chance(result: Result) -> Mapping[str, bool]:
    """Metric -> whether it is within its interval's width, or four standard errors, of chance; ranks are left out."""
    found = {}
    for name, score in result.metrics.items():
        if score.chance is None or "rank" in name or not np.isfinite(score.chance):
            continue
        error = np.sqrt(score.chance * (1 - score.chance) / result.n)
        width = np.nan_to_num(score.high - score.low)
        found[name] = bool(abs(score.value - score.chance) <= max(width, _ERRORS * error))
    return found
