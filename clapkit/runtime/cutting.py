"""What of a file goes into the tower, cut from its stretches as they are decoded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from clapkit.audio.windows import plan_windows


class Cut:
    """The windows of one file while it is being read.

    window, hop   samples of a window, and from one to the next
    total         samples read so far
    cut           windows handed out
    vectors       what the encoder made of them, in the same order
    """

    fused = False  # one vector stands for the whole file

    def __init__(self, index: int, window: int, hop: int) -> None:
        self.index, self.window, self.hop = index, window, hop
        self.total = self.cut = 0
        self.ended = False
        self.vectors: list[np.ndarray] = []
        self.notes: tuple[str, ...] = ()
        self._tail = np.zeros(0, np.float32)
        self._tail_start = 0

    def feed(self, samples: np.ndarray, is_last: bool) -> Iterator[Any]:
        """The windows that the samples complete: at every hop, and at the end one that ends with the sound."""
        self._tail = np.concatenate([self._tail, samples])
        self.total += len(samples)
        starts = []
        if is_last:
            self.ended = True
            starts = [w.start for w in plan_windows(self.total, self.window, self.hop)][self.cut :]
            self.cut += len(starts)
        else:
            while self.cut * self.hop + self.window < self.total:
                starts.append(self.cut * self.hop)
                self.cut += 1
        for start in starts:
            first = start - self._tail_start
            yield self._tail[first : first + self.window].copy()
        # The last window may reach back by a whole window from an end that is not known yet.
        keep = max(0, self.total - self._tail_start - self.window)
        next_start = max(0, self.cut * self.hop - self._tail_start)
        drop = min(keep, next_start)
        self._tail, self._tail_start = self._tail[drop:], self._tail_start + drop

    @property
    def complete(self) -> bool:
        return self.ended and len(self.vectors) == self.cut
