"""What of a file goes into the tower, cut from its stretches as they are decoded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

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


class FusedCut(Cut):
    """A file for a model with feature fusion: one window of samples, or the four-channel mel [4, T, F] of all of it.

    The mel is made as the sound comes, frame for frame the one of the whole sound, so that only it is held: 92 MB for
    an hour at 100 frames a second of 64 bins.
    """

    def __init__(self, index: int, window: int, hop: int, *, frontend: Any, how: str) -> None:
        super().__init__(index, window, hop)
        self._mel = LongMel(frontend)
        self._frames = frontend.frames(window)
        from clapkit.audio import fuse

        self._fuse = fuse.fuse_long if how == "fuse" else fuse.crop_long

    def feed(self, samples: np.ndarray, is_last: bool) -> Iterator[Any]:
        self.total += len(samples)
        self._tail = np.concatenate([self._tail, samples])
        self.ended = is_last
        if self.total > self.window:
            self.fused = True
            self._mel.feed(self._tail, is_last)
            self._tail = self._tail[:0]
        if not is_last:
            return
        self.cut = 1
        if not self.fused:
            yield self._tail
            return
        mel_TF = self._mel.values()
        # A few samples more than a window are no frame more: the references then take the clip as a short one.
        yield mel_TF if len(mel_TF) <= self._frames else self._fuse(mel_TF, self._frames)


class LongMel:
    """The mel [T, F] of a sound that comes in pieces, equal to that of the whole (centred front-ends)."""

    def __init__(self, frontend: Any) -> None:
        self._frontend = frontend
        self._hop = frontend.hop_samples
        self._context = -(-frontend.settings.n_fft // 2 // self._hop)  # frames that a cut edge can reach
        self._tail = np.zeros(0, np.float32)
        self._done = 0  # frames made
        self._first = 0  # frame at which the tail starts
        self._parts: list[torch.Tensor] = []

    @torch.inference_mode()
    def feed(self, samples: np.ndarray, is_last: bool) -> None:
        """Take the next samples; with the last ones, all frames are there."""
        self._tail = np.concatenate([self._tail, samples])
        # Without the end, a frame is made once its whole window is there.
        there = len(self._tail) // self._hop + 1 - (0 if is_last else self._context + 1)
        if there <= self._done - self._first and not is_last:
            return
        device = self._frontend.window.device
        mel_TF = self._frontend(torch.from_numpy(self._tail)[None].to(device)).values[0]
        end = mel_TF.shape[0] if is_last else there
        self._parts.append(mel_TF[self._done - self._first : end].cpu())
        self._done = self._first + end
        drop = max(0, self._done - self._context - self._first)
        self._tail, self._first = self._tail[drop * self._hop :], self._first + drop

    def values(self) -> torch.Tensor:
        return torch.cat(self._parts)
