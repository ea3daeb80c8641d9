"""Playlists from examples: sounds like some others, various, and in an order in which each leads to the next.

A list of sounds has a vector as a sound has one: the mean of its sounds (card 120, whose sequence models start from
that). Continuing a list is then a search for its neighbours, with variety. Words may join in (card 161: any part of
the query may be missing); what a sound has to do with the words counts by how far it stands out in the library, since
cosines between sounds and between words and sounds are not on one scale.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clapkit.errors import DataError, SpecError
from clapkit.files import atomic_file
from clapkit.nearest import unit_rows
from clapkit.search.curating.files import FileTable
from clapkit.search.rerank import distinct, diverse

_LEAST_POOL = 200


@dataclass(frozen=True)
class Entry:
    """One sound of a playlist; `score` is what it was chosen by: a cosine, or something on the scale of one."""

    file: str
    score: float
    duration_s: float


@dataclass(frozen=True)
class Wish:
    """What a playlist is to be like.

    like_ED      vectors of the example sounds [E, D]; text_TD: of texts [T, D]; one of them may be None
    text_weight  share of the words where there are both, from 0 to 1
    joined       "mean": like all examples at once; "any": like one of them
    """

    like_ED: np.ndarray | None = None
    text_TD: np.ndarray | None = None
    text_weight: float = 0.5
    joined: str = "mean"

    def __post_init__(self) -> None:
        if not 0 <= self.text_weight <= 1 or self.joined not in ("mean", "any"):
            raise SpecError(
                f"text_weight {self.text_weight}, joined {self.joined!r}: expected a share from 0 to 1, and mean or any"
            )
        if self.like_ED is None and self.text_TD is None:
            raise DataError("a playlist needs an example or a text: expected vectors of one of them at least")

    def scores(self, vectors_FD: np.ndarray) -> np.ndarray:
        """How well each file fits [F]: the cosine, or where there are sounds and words the mean of both standings."""
        parts = [
            _cosines(vectors_FD, wanted, self.joined)
            for wanted in (self.like_ED, self.text_TD)
            if wanted is not None and len(wanted)
        ]
        if len(parts) == 1:
            return parts[0]
        sound_F, text_F = parts
        standing_F = (1 - self.text_weight) * _standing(sound_F) + self.text_weight * _standing(text_F)
        return sound_F.mean() + sound_F.std() * standing_F


def make_playlist(
    table: FileTable,
    wish: Wish,
    *,
    length: int = 30,
    minutes: float | None = None,
    variety: float = 0.3,
    copies_above: float = 0.98,
    smooth: bool = False,
    left_out: Sequence[str] = (),
) -> list[Entry]:
    """Files of a library that fit a wish, at most `length`, and no longer together than `minutes`.

    variety       weight of being unlike what has been chosen (1 - the relevance of maximal marginal relevance)
    copies_above  of files within this cosine of each other, and of equal contents, the best comes alone
    smooth        put them in an order of short steps, from the first example to the last; else in the order of choice
    left_out      files that are not to come: the examples, where they lie in the library
    A sound that alone is longer than what is left of `minutes` is passed over. SpecError for a setting out of range.
    """
    if length < 1 or not 0 <= variety <= 1 or (minutes is not None and not minutes > 0):
        raise SpecError(
            f"length {length}, minutes {minutes} and variety {variety}: expected at least 1 sound, minutes above 0, "
            "and a variety from 0 to 1"
        )
    scores_F = wish.scores(table.vectors_FD) if len(table) else np.zeros(0)
    order = np.argsort(-scores_F, kind="stable")
    kept_F = np.isin(order, table.without_copies()) & ~np.isin(order, _positions(table, left_out))
    pool = order[kept_F][: max(_LEAST_POOL, 10 * length)]
    pool = pool[distinct(table.vectors_FD[pool], above=copies_above)]
    if not len(pool):
        return []
    count = len(pool) if minutes is not None else min(length, len(pool))
    ranked = pool[diverse(scores_F[pool], table.vectors_FD[pool], count, relevance=1 - variety)]
    chosen = _fitting(ranked, table.durations_s, length, minutes)
    if smooth and len(chosen) > 2:
        ends = unit_rows(wish.like_ED, what="the examples") if wish.like_ED is not None else None
        chosen = [chosen[n] for n in smooth_order(table.vectors_FD[chosen], ends)]
    return [Entry(table.files[n], float(scores_F[n]), float(table.durations_s[n])) for n in chosen]


def smooth_order(vectors_ND: np.ndarray, ends_ED: np.ndarray | None = None) -> list[int]:
    """An order of unit rows with short steps: a path that begins near the first row of `ends_ED` and, where it has more
    than one, ends near the last. A step is an angle.

    The nearest next row each time, then pieces of the path turned round as long as that shortens it (2-opt): short,
    not always the shortest.
    """
    points_ND = np.asarray(vectors_ND, np.float64)
    steps_NN = np.arccos(np.clip(points_ND @ points_ND.T, -1, 1))
    begin_N = end_N = np.zeros(len(points_ND))
    if ends_ED is not None and len(ends_ED):
        begin_N = np.arccos(np.clip(points_ND @ ends_ED[0], -1, 1))
        if len(ends_ED) > 1:
            end_N = np.arccos(np.clip(points_ND @ ends_ED[-1], -1, 1))
    path = [int(np.argmin(begin_N))]
    left = set(range(len(points_ND))) - set(path)
    while left:
        path.append(min(left, key=lambda n: (steps_NN[path[-1], n], n)))
        left.remove(path[-1])
    shorter = True
    while shorter:
        shorter = False
        for first in range(len(path) - 1):
            for last in range(first + 1, len(path)):
                if _gain(path, first, last, steps_NN, begin_N, end_N) > 1e-9:
                    path[first : last + 1] = path[first : last + 1][::-1]
                    shorter = True
    return path


def write_m3u8(path: str | os.PathLike[str], entries: Sequence[Entry]) -> None:
    """An extended M3U in UTF-8, files named as they are in the library."""
    with atomic_file(path) as file:
        file.write(m3u8(entries).encode())


def m3u8(entries: Sequence[Entry]) -> str:
    """The text of an extended M3U."""
    lines = ["#EXTM3U"]
    for entry in entries:
        name = " ".join(Path(entry.file).stem.split())
        lines += [f"#EXTINF:{max(1, round(entry.duration_s))},{name}", entry.file.replace("\n", " ")]
    return "\n".join(lines) + "\n"


def _cosines(vectors_FD: np.ndarray, wanted_ED: np.ndarray, joined: str) -> np.ndarray:
    unit_ED = unit_rows(wanted_ED, what="the wish")
    if joined == "mean":
        unit_ED = unit_rows(unit_ED.mean(axis=0, dtype=np.float64)[None], what="the mean of the wish")
    return (vectors_FD @ unit_ED.T).max(axis=1)


def _standing(scores_F: np.ndarray) -> np.ndarray:
    return (scores_F - scores_F.mean()) / max(float(scores_F.std()), 1e-9)


def _positions(table: FileTable, files: Sequence[str]) -> list[int]:
    """Of files, and of others with the content of one of them."""
    gone = {table.contents[n] for n, file in enumerate(table.files) if file in set(files)}
    return [n for n, content in enumerate(table.contents) if content in gone]


def _fitting(ranked: np.ndarray, durations_s: np.ndarray, length: int, minutes: float | None) -> list[int]:
    left_s = np.inf if minutes is None else 60 * minutes
    chosen: list[int] = []
    for position in ranked:
        if len(chosen) < length and durations_s[position] <= left_s:
            chosen.append(int(position))
            left_s -= durations_s[position]
    return chosen


def _gain(
    path: list[int], first: int, last: int, steps_NN: np.ndarray, begin_N: np.ndarray, end_N: np.ndarray
) -> float:
    """By how much the path gets shorter when the piece from `first` to `last` is turned round."""

    def before(n: int) -> float:
        return float(steps_NN[path[first - 1], n] if first else begin_N[n])

    def after(n: int) -> float:
        return float(steps_NN[n, path[last + 1]] if last + 1 < len(path) else end_N[n])

    a, b = path[first], path[last]
    return before(a) + after(b) - before(b) - after(a)
