"""A made-up library for `benchmarks/search.py`: unit vectors in clusters, with known neighbours of known queries.

Piece by piece from a seed, so that nothing has to be kept: the same piece is the same vectors and rows whenever it is
asked for, for the store as for the libraries beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

CLUSTERS = 2000
PLANTED = 10  # neighbours of a query
COSINES = np.linspace(0.6, 0.9, PLANTED)  # two rows of a cluster have 0.5 on average, the best of 500 about 0.6
WINDOWS = 10  # rows of a file
PIECE_ROWS = 20_000
TAGS = {"half": 2, "tenth": 10, "hundredth": 100, "thousandth": 1000}  # one row in so many has it
_MIXER = 7919


@dataclass(frozen=True)
class World:
    """`rows` vectors of `dimension`: a centre and as much noise, at unit length.

    Of the first `planted` queries each has PLANTED rows at the cosines COSINES, in rows of the whole library; the
    `bare` queries after them have only the rows of their cluster, which are all about as near.
    """

    rows: int
    dimension: int = 512
    planted: int = 600
    bare: int = 200
    seed: int = 7

    def pieces(self) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, vectors float32) of one piece after the other."""
        for first in range(0, self.rows, PIECE_ROWS):
            yield first, self.piece(first)

    def piece(self, first: int) -> np.ndarray:
        """The vectors of the piece that begins at row `first`."""
        rng = np.random.default_rng([self.seed, 1, first])
        count = min(PIECE_ROWS, self.rows - first)
        cluster_R = rng.integers(CLUSTERS, size=count)
        vectors_RD = _unit(self._centres[cluster_R] + self._noise(rng, count))
        query_P, cosine_P, row_P = self._plants
        here_P = (row_P >= first) & (row_P < first + count)
        along_PD = self.queries[query_P[here_P]]
        away_PD = self._noise(rng, len(along_PD))
        away_PD = _unit(away_PD - (away_PD * along_PD).sum(1, keepdims=True) * along_PD)
        cosine_P1 = cosine_P[here_P, None].astype(np.float32)
        vectors_RD[row_P[here_P] - first] = cosine_P1 * along_PD + np.sqrt(1 - cosine_P1**2) * away_PD
        return vectors_RD

    @cached_property
    def queries(self) -> np.ndarray:
        """Unit vectors [planted + bare, D], like rows of a cluster."""
        rng = np.random.default_rng([self.seed, 2])
        count = self.planted + self.bare
        return _unit(self._centres[rng.integers(CLUSTERS, size=count)] + self._noise(rng, count))

    @cached_property
    def neighbours(self) -> np.ndarray:
        """The planted rows [planted, PLANTED] of each query, the farthest first."""
        return self._plants[2].reshape(self.planted, PLANTED)

    def about(self, first: int, count: int) -> list[dict[str, Any]]:
        """What the store is told of rows: ten windows a file, and tags that a share of the rows has."""
        return [
            {
                "file": f"library/{n // 10_000:03}/take{n // WINDOWS:07}.wav",
                "window": n % WINDOWS,
                "start_s": n % WINDOWS * 5.0,
                "duration_s": 5.0,
                "content_hash": f"{n // WINDOWS:032x}",
                "pipeline_id": "made up",
                "tags": tuple(name for name, every in TAGS.items() if n * _MIXER % every == 0),
            }
            for n in range(first, first + count)
        ]

    def has(self, tag: str, row_R: np.ndarray) -> np.ndarray:
        """Which rows have a tag [R]."""
        return row_R * _MIXER % TAGS[tag] == 0

    @cached_property
    def _centres(self) -> np.ndarray:
        rng = np.random.default_rng([self.seed, 0])
        return _unit(rng.standard_normal((CLUSTERS, self.dimension), np.float32))

    @cached_property
    def _plants(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng([self.seed, 3])
        row_P = rng.choice(self.rows, self.planted * PLANTED, replace=False)
        return np.repeat(np.arange(self.planted), PLANTED), np.tile(COSINES, self.planted), row_P

    def _noise(self, rng: np.random.Generator, count: int) -> np.ndarray:
        return rng.standard_normal((count, self.dimension), np.float32) / np.float32(self.dimension**0.5)


def _unit(vectors_ND: np.ndarray) -> np.ndarray:
    return (vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)).astype(np.float32)
