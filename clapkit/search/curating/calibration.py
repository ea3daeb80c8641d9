"""Scores that mean something: a temperature and a bias for each prompt, fitted on clips without labels.

A cosine of 0.3 is much for one prompt and little for another, so no threshold works for all. The clips say how the
scores of a prompt are spread when it mostly does not apply: `fit_calibration` brings this background of every prompt to
the same place and width. What is left to say is how many prompts apply to a clip on average, a rough number that the
caller gives; with it scores become probabilities, and one threshold holds for all prompts.

No clip needs a label. How far the probabilities are from the truth is measured by
`clapkit.evaluation.audits.calibration`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clapkit.errors import DataError, SpecError
from clapkit.files import atomic_file

FORMAT_VERSION = 1
# How fast the odds grow with a score that is so many background widths up. Chosen on ESC-50 mixtures of fold 4 with a
# model of folds 1 and 2 (the best slope with labels was 1.54 to 1.59 in each of three ways to fit).
SLOPE = 1.5
LEAST_CLIPS = 20
_LEAST_CENTRED = 10  # prompts: the mean of fewer holds too much of each


@dataclass(frozen=True)
class Calibration:
    """Probabilities from scores: sigmoid((score - mean of the clip) / temperature_C + bias_C).

    prompts     what the columns of the scores are, in order
    centred     whether the mean score of the clip over all prompts is taken off (some clips are near to every text)
    threshold   from which probability on a prompt is said to apply, so that as many are as `per_clip` expects
    per_clip    how many prompts apply to a clip on average, as the caller has said
    """

    prompts: tuple[str, ...]
    temperature_C: np.ndarray
    bias_C: np.ndarray
    centred: bool
    threshold: float
    per_clip: float

    def __call__(self, scores_NC: np.ndarray) -> np.ndarray:
        """Probabilities [N, C] of cosines [N, C]. DataError for another number of prompts or scores not finite."""
        scores_NC = score_table(scores_NC, least=0)
        if scores_NC.shape[1] != len(self.prompts):
            raise DataError(f"scores of {scores_NC.shape[1]} prompts for a calibration of {len(self.prompts)}")
        return _sigmoid(_centred(scores_NC, self.centred) / self.temperature_C + self.bias_C)

    def applies(self, scores_NC: np.ndarray) -> np.ndarray:
        """Which prompts apply to which clips, bool [N, C]: the probability reaches the threshold."""
        return self(scores_NC) >= self.threshold

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "format_version": FORMAT_VERSION,
            "centred": self.centred,
            "threshold": self.threshold,
            "per_clip": self.per_clip,
            "prompts": [
                {"text": text, "temperature": float(temperature), "bias": float(bias)}
                for text, temperature, bias in zip(self.prompts, self.temperature_C, self.bias_C, strict=True)
            ],
        }

    @classmethod
    def from_json(cls, data: Any) -> Calibration:
        """What `to_json` gave. DataError for anything else."""
        try:
            if data["format_version"] != FORMAT_VERSION:
                raise DataError(
                    f"a calibration of format {data['format_version']}; this clapkit reads {FORMAT_VERSION}"
                )
            rows = data["prompts"]
            return cls(
                prompts=tuple(str(row["text"]) for row in rows),
                temperature_C=np.array([float(row["temperature"]) for row in rows]),
                bias_C=np.array([float(row["bias"]) for row in rows]),
                centred=bool(data["centred"]),
                threshold=float(data["threshold"]),
                per_clip=float(data["per_clip"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"this is no calibration ({error!r}): expected what `clapkit eval calibrate` wrote"
            ) from error

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON, in one step."""
        with atomic_file(path) as file:
            file.write((json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n").encode())

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read what `write` wrote. DataError for a file that cannot be read or holds something else."""
        try:
            return cls.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read as a calibration: {error}") from error


def fit_calibration(
    scores_NC: np.ndarray,
    prompts: Sequence[str],
    *,
    per_clip: float,
    slope: float = SLOPE,
    centred: bool | None = None,
) -> Calibration:
    """A calibration from the cosines of unlabelled clips with all prompts.

    scores_NC  clips like those it will be used on; each prompt has to be absent from most of them
    per_clip   how many of the prompts apply to a clip where it will be used, roughly
    slope      how fast the odds grow per width of the background
    centred    None: where there are 10 prompts or more
    The location of a prompt is its mean; its width is the geometric mean of its own spread and that of all prompts,
    since a spread is also wide because a prompt often applies. The bias is such that the probabilities of the clips sum
    to `per_clip`. Raises DataError for fewer than 20 clips, scores that are not finite, prompts that do not fit or
    whose scores are all equal; SpecError for `per_clip` outside (0, C) and a slope not above 0.
    """
    scores_NC = score_table(scores_NC, least=LEAST_CLIPS)
    count = len(prompts)
    if scores_NC.shape[1] != count or not count or len(set(prompts)) != count:
        raise DataError(f"{scores_NC.shape[1]} columns of scores and {count} prompts, {len(set(prompts))} different")
    if not 0 < per_clip < count or not slope > 0:
        raise SpecError(
            f"per_clip={per_clip}, slope={slope}: expected more than 0 and fewer than {count} prompts a clip, and a "
            "slope above 0"
        )
    centred = count >= _LEAST_CENTRED if centred is None else centred
    if centred and count < 2:
        raise SpecError("centred=True with one prompt: its score would be 0 for every clip")
    left_NC = _centred(scores_NC, centred)
    mean_C, spread_C = left_NC.mean(axis=0), left_NC.std(axis=0)
    flat = [text for text, spread in zip(prompts, spread_C, strict=True) if spread < 1e-9]
    if flat:
        raise DataError(f"{len(flat)} prompts have the same score for every clip:", flat)
    temperature_C = np.sqrt(spread_C * spread_C.mean()) / slope
    logit_NC = (left_NC - mean_C) / temperature_C
    bias = _bias(logit_NC, per_clip / count)
    cut = float(np.quantile(logit_NC, 1 - per_clip / count))
    threshold = float(_sigmoid(np.array(cut + bias)))
    return Calibration(tuple(prompts), temperature_C, bias - mean_C / temperature_C, centred, threshold, per_clip)


def score_table(scores_NC: np.ndarray, *, least: int) -> np.ndarray:
    """The scores as float64 [N, C]. DataError for another shape, values not finite, and fewer than `least` rows."""
    scores_NC = np.asarray(scores_NC, np.float64)
    if scores_NC.ndim != 2 or len(scores_NC) < least or not np.isfinite(scores_NC).all():
        raise DataError(
            f"a table of shape {scores_NC.shape}, {int((~np.isfinite(scores_NC)).sum())} of its values not finite: "
            f"expected a row a clip, at least {least} rows, and a column a prompt"
        )
    return scores_NC


def _centred(scores_NC: np.ndarray, centred: bool) -> np.ndarray:
    return scores_NC - scores_NC.mean(axis=1, keepdims=True) if centred else scores_NC


def _sigmoid(logit: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * logit))


def _bias(logit_NC: np.ndarray, share: float) -> float:
    """What has to be added for the mean probability to be `share`; it grows with what is added, so halving finds it."""
    low, high = -1e3 - float(logit_NC.max()), 1e3 - float(logit_NC.min())
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if _sigmoid(logit_NC + middle).mean() > share else (middle, high)
    return (low + high) / 2
