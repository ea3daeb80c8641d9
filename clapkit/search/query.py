"""What is asked of a store, out of vectors alone: texts, sounds, what should not be there, several examples.

The vectors come from whoever has the model; here they are joined into one direction, candidates are fetched, and the
list is put in order: hubs take their place, words have their say, copies go, neighbours become moments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clapkit.errors import DataError, SpecError
from clapkit.nearest import unit_rows
from clapkit.search.hubs import csls, query_bank_norm
from clapkit.search.rerank import Moment, distinct, diverse, fuse, moments
from clapkit.search.rows import Row
from clapkit.search.view import View
from clapkit.search.where import Filter

_JOINED = ("mean", "any")
_CORRECTED = ("csls", "qbnorm")


@dataclass(frozen=True)
class Query:
    """What to look for.

    like_PD       vectors of texts, of sounds, of regions of sounds: of all that the result should be like
    unlike_MD     vectors of what it should not be like ("without rain")
    joined        "mean": like all of them at once; "any": like one of them, several examples of a kind
    less          how much the cosine with the nearest of `unlike_MD` takes away, where it is above 0
    words         a text that is looked up in names, tags and metadata, and fused with the vectors by reciprocal rank
    words_weight  how much its ranking weighs beside that of the vectors
    where         filters that all have to hold
    SpecError for a setting, DataError for vectors that do not fit.
    """

    like_PD: np.ndarray
    unlike_MD: np.ndarray | None = None
    joined: str = "mean"
    less: float = 0.5
    words: str | None = None
    words_weight: float = 1.0
    where: Sequence[Filter] = ()
    exact: bool = False

    def __post_init__(self) -> None:
        if self.joined not in _JOINED:
            raise SpecError(f"joined is {self.joined!r}: expected one of {', '.join(_JOINED)}")
        if not self.less >= 0 or not self.words_weight >= 0:
            raise SpecError(f"less {self.less} and words_weight {self.words_weight}: expected numbers from 0")
        if not len(self.like_PD):
            raise DataError("a query has no vector: expected one of a text or a sound at least")

    def directions(self) -> np.ndarray:
        """The unit vectors that are searched for: one, or with "any" one for each example."""
        like_PD = unit_rows(self.like_PD, what="the query")
        if self.joined == "any":
            return like_PD
        return unit_rows(like_PD.mean(axis=0, dtype=np.float64)[None], what="the mean of the query")

    def scores(self, vectors_ND: np.ndarray) -> np.ndarray:
        """The score [N] of unit rows: the best cosine, less what they have in common with what is not wanted."""
        scores_N = (vectors_ND @ self.directions().T).max(axis=1)
        if self.unlike_MD is not None and len(self.unlike_MD):
            unlike_N = (vectors_ND @ unit_rows(self.unlike_MD, what="what is not wanted").T).max(axis=1)
            scores_N = scores_N - self.less * np.maximum(unlike_N, 0)
        return scores_N


@dataclass(frozen=True)
class Shown:
    """How the candidates become a list.

    copies_above  leave out rows within this cosine of a better one, and rows of the same content; None keeps them
    relevance     of maximal marginal relevance; None keeps the order of the scores
    bank_BD       vectors of queries that stand for those to come: candidates that many of them find are held back
    corrected     "csls" or "qbnorm", how this is done (`clapkit.search.hubs`); `bank_k`: neighbours of csls
    temperature   of qbnorm
    pool          candidates fetched for each result: what is not among them cannot be brought up
    """

    copies_above: float | None = None
    relevance: float | None = None
    bank_BD: np.ndarray | None = None
    corrected: str = "csls"
    bank_k: int = 10
    temperature: float = 0.05
    pool: int = 10

    def __post_init__(self) -> None:
        if self.corrected not in _CORRECTED:
            raise SpecError(f"corrected is {self.corrected!r}: expected one of {', '.join(_CORRECTED)}")
        if self.pool < 1:
            raise SpecError(f"pool is {self.pool}: expected at least 1 candidate a result")


@dataclass(frozen=True)
class Match:
    """One row that was found; `cosine` is the score of the query, `score` what the list is ordered by."""

    row: Row
    score: float
    cosine: float


def find(view: View, query: Query, k: int = 10, *, shown: Shown | None = None) -> list[Match]:
    """The `k` rows that a query finds, best first. One view answers all of it, so spaces and versions never mix.

    `Match.score` is a cosine; with unwanted vectors, hubs or words it is a number that orders one list only. SpecError
    for k < 1.
    """
    shown = shown or Shown()
    ids, vectors_ND = _candidates(view, query, k, shown)
    if not ids:
        return []
    cosines_N = query.scores(vectors_ND)
    scores_N = _without_hubs(cosines_N, vectors_ND, shown)
    if query.words:
        scores_N = _with_words(view, query, ids, scores_N)
    order = np.argsort(-scores_N, kind="stable")
    rows = view.rows([ids[n] for n in order])
    matches = [Match(row, float(scores_N[n]), float(cosines_N[n])) for row, n in zip(rows, order, strict=True)]
    return [matches[n] for n in _shown(matches, vectors_ND[order], k, shown)]


def find_moments(
    view: View, query: Query, k: int = 10, *, gap_s: float = 0.0, within: float = 0.1, pool: int = 50
) -> list[Moment]:
    """The `k` best moments in files: windows whose cosine is within `within` of the best of all, neighbours merged.

    A file may have several. SpecError for k < 1, and a negative `gap_s` or `within`.
    """
    if not within >= 0:
        raise SpecError(f"within is {within}: expected a difference of scores from 0")
    matches = find(view, query, k * pool, shown=Shown(pool=1))  # these are many already
    best = max((match.cosine for match in matches), default=0.0)  # with words, scores are no cosines
    kept = [match for match in matches if match.cosine >= best - within]
    return moments([match.row for match in kept], [match.score for match in kept], gap_s=gap_s)[:k]


def _candidates(view: View, query: Query, k: int, shown: Shown) -> tuple[list[str], np.ndarray]:
    if k < 1:
        raise SpecError(f"k is {k}; it has to be at least 1")
    reordered = (query.unlike_MD, query.words, shown.copies_above, shown.relevance, shown.bank_BD)
    plain = all(setting is None for setting in reordered)
    count = min(k if plain else k * shown.pool, len(view)) or 1
    found, _ = view.search(query.directions(), count, where=query.where, exact=query.exact)
    lists = [*found]
    if query.words:
        lists.append([name for name, _ in view.words(query.words, count, where=query.where)])
    ids = list(dict.fromkeys(name for names in lists for name in names))
    return ids, view.vectors(ids)


def _without_hubs(scores_N: np.ndarray, vectors_ND: np.ndarray, shown: Shown) -> np.ndarray:
    if shown.bank_BD is None:
        return scores_N
    bank_BN = unit_rows(shown.bank_BD, what="the bank of queries") @ vectors_ND.T
    if shown.corrected == "csls":
        return csls(scores_N[None], k=shown.bank_k, bank_BN=bank_BN)[0]
    return query_bank_norm(scores_N[None], temperature=shown.temperature, bank_BN=bank_BN)[0]


def _with_words(view: View, query: Query, ids: list[str], scores_N: np.ndarray) -> np.ndarray:
    assert query.words
    by_vector = [ids[n] for n in np.argsort(-scores_N, kind="stable")]
    by_words = [name for name, _ in view.words(query.words, len(ids), where=query.where)]
    sums = dict(fuse([by_vector, by_words], [1.0, query.words_weight]))
    return np.array([sums[name] for name in ids])


def _shown(matches: list[Match], vectors_ND: np.ndarray, k: int, shown: Shown) -> list[int]:
    kept = list(range(len(matches)))
    if shown.copies_above is not None:
        first: dict[tuple[str, int], int] = {}
        for n, match in enumerate(matches):
            first.setdefault((match.row.content_hash, match.row.window), n)
        kept = sorted(first.values())
        kept = [kept[n] for n in distinct(vectors_ND[kept], above=shown.copies_above)]
    if shown.relevance is not None:
        scores_N = np.array([matches[n].score for n in kept])
        kept = [kept[n] for n in diverse(scores_N, vectors_ND[kept], k, relevance=shown.relevance)]
    return kept[:k]
