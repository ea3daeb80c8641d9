"""Captions from measurements: how high, how loud, how long, said in words (ParaCLAP, card 008).

A quantity of a clip (a meta column: pitch, level, duration, a rating) is compared with two limits that leave so much of
the data below and above them. Each of low, middle and high has its phrases, and a clip is described by several
quantities at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from clapkit.data.clip import Clip
from clapkit.errors import DataError, SpecError
from clapkit.views.base import Domain, Params
from clapkit.views.captions import check_most, check_per_clip, with_texts
from clapkit.views.swaps import with_wrong

LOW_SHARE, HIGH_SHARE = 0.3, 0.7


@dataclass(frozen=True)
class Quantity:
    """A meta column with its limits: at or below `low` the phrases of `low_phrases` hold, and so on upwards.

    Phrases may be empty for the middle: then nothing is said of a clip that lies there.
    """

    column: str
    low: float
    high: float
    low_phrases: tuple[str, ...]
    high_phrases: tuple[str, ...]
    middle_phrases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise SpecError(f"'{self.column}': low={self.low} lies above high={self.high}")
        if not self.low_phrases or not self.high_phrases:
            raise SpecError(f"'{self.column}' has no phrase for its low or its high end: give one to each")

    def band(self, value: float) -> int:
        """0 low, 1 middle, 2 high. A greater value never has a lower band."""
        return 0 if value <= self.low and value < self.high else 2 if value >= self.high else 1

    def phrases(self, band: int) -> tuple[str, ...]:
        """What is said of a band."""
        return (self.low_phrases, self.middle_phrases, self.high_phrases)[band]


def limits(values: Sequence[float]) -> tuple[float, float]:
    """(low, high) of a quantity over the data: 30 % of it lies at or below the first, 30 % at or above the second.

    Values that are not finite are left out; DataError where fewer than two are left.
    """
    found = np.asarray(values, np.float64)
    found = found[np.isfinite(found)]
    if len(found) < 2:
        raise DataError(f"{len(found)} of {len(values)} values are numbers: limits need at least 2")
    low, high = np.quantile(found, (LOW_SHARE, HIGH_SHARE))
    return float(low), float(high)


@dataclass(frozen=True)
class MeasuredPhrases:
    """Sentences such as "speaker with a high voice and with a fast pace" from measured quantities (card 008).

    A drawn number of quantities, at most `most` and fewer more often, is named in drawn order behind `subject`. For
    each sentence a wrong one has one phrase of the opposite end in place of a true one (not where that one is of the
    middle). A quantity without a value is not spoken of; DataError for a value that is no number.

    Views that change what was measured (`Gain`, `Speed`, `Room`) make these captions false.
    """

    quantities: tuple[Quantity, ...]
    subject: str = "speaker"
    most: int = 5
    per_clip: int = 4

    adds: ClassVar[tuple[str, ...]] = ("text", "text_private")
    domain: ClassVar[Domain] = "text"

    def __post_init__(self) -> None:
        check_per_clip(self.per_clip)
        check_most(self.most)
        if not self.quantities:
            raise SpecError("quantities is empty: give at least one Quantity")

    def draw(self, rng: np.random.Generator, clip: Clip, pool: Sequence[Clip]) -> Params:
        measured = ((q, q.band(v)) for q in self.quantities if (v := _value(clip, q.column)) is not None)
        known = [(q, band) for q, band in measured if q.phrases(band)]
        captions: list[str] = []
        wrong: list[str] = []
        for _ in range(self.per_clip if known else 0):
            chosen = [known[int(i)] for i in rng.permutation(len(known))[: _size(rng, min(self.most, len(known)))]]
            said = [_one(rng, q.phrases(band)) for q, band in chosen]
            captions.append(self._sentence(said))
            ends = [i for i, (_, band) in enumerate(chosen) if band != 1]
            if ends:
                i = ends[int(rng.integers(len(ends)))]
                quantity, band = chosen[i]
                wrong.append(self._sentence([*said[:i], _one(rng, quantity.phrases(2 - band)), *said[i + 1 :]]))
        return {"captions": list(dict.fromkeys(captions)), "wrong": list(dict.fromkeys(wrong))}

    def _sentence(self, phrases: Sequence[str]) -> str:
        return " ".join((self.subject, " and ".join(phrases))).strip()

    def apply(self, clip: Clip, params: Params, pool: Mapping[str, Clip]) -> Clip:
        return with_wrong(with_texts(clip, "captions", params["captions"]), params["wrong"])


@dataclass(frozen=True)
class Values:
    """Meta columns as the quantities by which an objective orders clips (`RankNContrast`; card 060).

    columns  the columns; together they are the axes of one space in which clips lie near each other or far apart
    units    a number for each column by which it is divided, so that axes of different kind weigh alike (their usual
             spread); empty: all are 1

    A clip that lacks one of them, or has a blank or infinite one, has no values. DataError for one that is no number.
    A mixture in shares has the mean of its sources; views that put clips together otherwise leave them without.
    Views that change what was measured (`Speed`, `Gain`) make the values false.
    """

    columns: tuple[str, ...]
    units: tuple[float, ...] = ()

    adds: ClassVar[tuple[str, ...]] = ("value",)
    domain: ClassVar[Domain] = "text"

    def __post_init__(self) -> None:
        for name in ("columns", "units"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.columns:
            raise SpecError("columns is empty: name at least one column that holds numbers")
        if self.units and len(self.units) != len(self.columns):
            raise SpecError(f"{len(self.columns)} columns and {len(self.units)} units: give one to each, or none")
        if not all(0.0 < unit < np.inf for unit in self.units):
            raise SpecError(f"units are numbers above 0, not {self.units}")

    def draw(self, rng: np.random.Generator, clip: Clip, pool: Sequence[Clip]) -> Params:
        found = [_value(clip, column) for column in self.columns]
        units = self.units or (1.0,) * len(self.columns)
        return {"values": [v / u for v, u in zip(found, units, strict=True) if v is not None]}

    def apply(self, clip: Clip, params: Params, pool: Mapping[str, Clip]) -> Clip:
        whole = len(params["values"]) == len(self.columns)
        return clip.with_(values=tuple(params["values"]) if whole else ())


def _value(clip: Clip, column: str) -> float | None:
    """A meta value as a number; None where it is absent, blank or not finite."""
    value = clip.meta.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise DataError(f"clip '{clip.id}' has {column}={value!r}, which is no number") from None
    return number if np.isfinite(number) else None


def _size(rng: np.random.Generator, most: int) -> int:
    """1 to `most`, with probabilities that fall in equal steps."""
    weights = np.arange(most, 0, -1, dtype=np.float64)
    return 1 + int(rng.choice(most, p=weights / weights.sum()))


def _one(rng: np.random.Generator, phrases: Sequence[str]) -> str:
    return phrases[int(rng.integers(len(phrases)))]
