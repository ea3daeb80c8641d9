"""In what order clips are seen: a pure function of the seed, so that a stopped run goes on exactly where it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from clapkit.data.clip import Clip
from clapkit.errors import DataError

# Streams of random numbers: one purpose each, so that a new purpose does not move the others.
ORDER, VIEWS, TEXTS, TOKENS, HELD_OUT, GROUPS = 1, 2, 3, 4, 5, 6


def stream(seed: int, purpose: int, *position: int) -> np.random.Generator:
    """The generator for one purpose at one position (epoch, step, row...): independent of all others."""
    return np.random.default_rng((seed, purpose, *position))


class Order(Protocol):
    """Which clips stand in which batch: a pure function of (seed, step), so that nothing has to be remembered."""

    def rows(self, count: int, batch_size: int, step: int, seed: int) -> np.ndarray:
        """Positions of the clips of batch `step` (0-based) among `count` clips, int64 [batch_size]."""
        ...


@runtime_checkable
class Sampler(Protocol):
    """A frozen dataclass that orders any data set, once it has seen what the clips say of themselves."""

    def prepare(self, clips: Sequence[Clip]) -> Order:
        """The order for these clips. DataError where they lack what it goes by, before anything is trained."""
        ...


@dataclass(frozen=True)
class Shuffled:
    """Every clip once an epoch, in a new order each epoch; batches run on across the end of an epoch."""

    def prepare(self, clips: Sequence[Clip]) -> Order:
        return self

    def rows(self, count: int, batch_size: int, step: int, seed: int) -> np.ndarray:
        """Positions of the clips of batch `step` (0-based) among `count` clips, int64 [batch_size]."""
        if count < 1:
            raise DataError("there is no clip to draw from")
        first = step * batch_size
        rows = np.empty(batch_size, np.int64)
        filled = 0
        while filled < batch_size:
            epoch, offset = divmod(first + filled, count)
            order = stream(seed, ORDER, epoch).permutation(count)
            part = order[offset : offset + batch_size - filled]
            rows[filled : filled + len(part)] = part
            filled += len(part)
        return rows
