"""What of a file goes into the tower, cut from its stretches as they are decoded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from clapkit.audio.windows import plan_windows

SILENCE = 2.0**-15  # one step of 16 bits: what is never above it, is digital silence


class Cut:
    """The windows of one file while it is being read.

    window, hop   samples of a window, and from one to the next
    skipped       samples of digital silence that were left out before the first window
    total         samples read so far, without those
    cut           windows handed out
    vectors       what the encoder made of them, in the same order
    """

    fused = False  # one vector stands for the whole file

    def __init__(self, index: int, window: int, hop: int, *, from_onset: bool = False) -> None:
        """`from_onset`: the windows of a sound that is longer than one begin where its leading silence ends, so that
        they lie in the same places of the sound however much silence stands before it."""
        self.index, self.window, self.hop = index, window, hop
        self.total = self.cut = self.skipped = 0
        self._awaits_onset = from_onset
        self.ended = False
        self.vectors: list[np.ndarray] = []
        self.notes: tuple[str, ...] = ()
        self._tail = np.zeros(0, np.float32)
        self._tail_start = 0

    def feed(self, samples: np.ndarray, is_last: bool) -> Iterator[Any]:
        """The windows that the samples complete: at every hop, and at the end one that ends with the sound."""
        self._tail = np.concatenate([self._tail, samples])
        self.total += len(samples)
        if self._awaits_onset:
            if self.total > self.window:
                self._skip_silence()
            if self._awaits_onset and not is_last:
                return  # so far silent, or so short that it would be heard as it is
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

    def _skip_silence(self) -> None:
        """Leave out what is silent at the start; of a file that is silent so far, a window stays."""
        onset = int(np.argmax(np.abs(self._tail) > SILENCE))
        self._awaits_onset = bool(abs(self._tail[onset]) <= SILENCE)
        dropped = len(self._tail) - self.window if self._awaits_onset else onset
        self._tail = self._tail[dropped:]
        self.total -= dropped
        self.skipped += dropped

    @property
    def complete(self) -> bool:
        return self.ended and len(self.vectors) == self.cut
