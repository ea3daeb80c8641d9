"""From sound of any length to one unit vector each, with memory bounded by what is in flight.

Every file is read in stretches of `_STRETCH_S` seconds, whether decoded here or in the pool of processes, so that the
same file gives the same numbers either way. Windows are cut from the stretches as they come, batched across files,
encoded, and averaged when a file has ended.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from clapkit.audio.decode import Sound, probe
from clapkit.audio.pool import DecodePool, DecodeRequest
from clapkit.audio.sources import describe
from clapkit.audio.windows import plan_windows
from clapkit.errors import AudioError
from clapkit.model import DualEncoder, Windowing
from clapkit.units import seconds_to_samples

_STRETCH_S = 120.0
_BATCH = 32
# How the decoder begins its reasons: for a range with less than half of what was promised, and for one without sound.
_TRUNCATED = "truncated"
_ENDED = "no sound at"


@dataclass(frozen=True)
class Embedded:
    """Vectors of one source.

    vector_D       unit-norm mean over the windows
    windows_WD     unit-norm vector of each window; starts_s and duration_s say where they lie
    notes          what the decoder had to say
    """

    index: int
    vector_D: np.ndarray
    windows_WD: np.ndarray
    starts_s: tuple[float, ...]
    window_s: float
    duration_s: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failed:
    """Why one source has no vector."""

    index: int
    error: AudioError


class AudioEngine:
    """Embeds sources with one model at one precision."""

    def __init__(self, model: DualEncoder, *, precision: str = "fp32", batch_size: int | None = None) -> None:
        self._model = model
        self._precision = precision
        self._batch_size = batch_size or _BATCH
        self._rate_hz = model.frontend.rate_hz
        windowing: Windowing = model.windowing
        self._window = seconds_to_samples(windowing.window_s, self._rate_hz)
        self._hop = seconds_to_samples(windowing.hop_s, self._rate_hz)

    def embed(
        self, sources: Sequence[Any], *, workers: int | None = None, on_done: Callable[[int], None] | None = None
    ) -> Iterator[Embedded | Failed]:
        """One result a source, as they are finished; `index` is the position in `sources`.

        workers   decoder processes for paths and bytes; 0 decodes here; default: processes for more than one source
        """
        stretches = _stretches(sources, self._rate_hz, _worker_count(sources, workers))
        files: dict[int, _File] = {}
        waiting: list[tuple[_File, np.ndarray]] = []
        finished = 0
        for index, sound, is_last in stretches:
            if isinstance(sound, AudioError):
                dropped = files.pop(index, None)
                waiting = [w for w in waiting if w[0] is not dropped]
                finished += 1
                yield Failed(index, sound)
            else:
                file = files.setdefault(index, _File(index, self._window, self._hop))
                waiting.extend((file, window) for window in file.feed(sound.samples, is_last))
                file.notes += tuple(sound.notes)
            while len(waiting) >= self._batch_size:
                self._encode(waiting[: self._batch_size])
                del waiting[: self._batch_size]
            for done in [f for f in files.values() if f.complete]:
                finished += 1
                yield self._result(files.pop(done.index))
            if on_done:
                on_done(finished)
        if waiting:
            self._encode(waiting)
        for file in files.values():
            finished += 1
            yield self._result(file)
        if on_done:
            on_done(finished)

    @torch.inference_mode()
    def _encode(self, waiting: Sequence[tuple[_File, np.ndarray]]) -> None:
        samples = np.zeros((len(waiting), self._window), np.float32)
        for row, (_, window) in enumerate(waiting):
            samples[row, : len(window)] = window
        lengths = torch.tensor([len(window) for _, window in waiting])
        device = self._model.device
        features = self._model.frontend(torch.from_numpy(samples).to(device), lengths.to(device))
        with torch.autocast(device.type, torch.bfloat16, enabled=self._precision == "bf16"):
            vectors = self._model.encode_features(features)
        for (file, _), vector in zip(waiting, vectors.float().cpu().numpy(), strict=True):
            file.vectors.append(vector)

    def _result(self, file: _File) -> Embedded:
        plan = plan_windows(file.total, self._window, self._hop)
        windows_WD = np.stack(file.vectors)
        mean_D = np.array([w.weight for w in plan], np.float64) @ windows_WD.astype(np.float64)
        # Opposite windows could cancel: a zero mean has no direction, and any unit vector would be a lie.
        norm = np.linalg.norm(mean_D)
        vector_D = (mean_D / norm if norm > 1e-12 else windows_WD[0]).astype(np.float32)
        return Embedded(
            index=file.index,
            vector_D=vector_D,
            windows_WD=windows_WD,
            starts_s=tuple(w.start / self._rate_hz for w in plan),
            window_s=plan[0].length / self._rate_hz,
            duration_s=file.total / self._rate_hz,
            notes=file.notes,
        )


@dataclass
class _File:
    """The windows of one file while it is being read."""

    index: int
    window: int
    hop: int
    total: int = 0
    cut: int = 0  # windows handed out
    ended: bool = False
    tail: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    tail_start: int = 0
    vectors: list[np.ndarray] = field(default_factory=list)
    notes: tuple[str, ...] = ()

    def feed(self, samples: np.ndarray, is_last: bool) -> Iterator[np.ndarray]:
        """The windows that the samples complete: at every hop, and at the end one that ends with the sound."""
        self.tail = np.concatenate([self.tail, samples])
        self.total += len(samples)
        starts = []
        if is_last:
            self.ended = True
            starts = [w.start for w in plan_windows(self.total, self.window, self.hop)][self.cut :]
        else:
            while self.cut * self.hop + self.window < self.total:
                starts.append(self.cut * self.hop)
                self.cut += 1
        self.cut += len(starts) if is_last else 0
        for start in starts:
            first = start - self.tail_start
            yield self.tail[first : first + self.window].copy()
        # The last window may reach back by a whole window from an end that is not known yet.
        keep = max(0, self.total - self.tail_start - self.window)
        next_start = max(0, self.cut * self.hop - self.tail_start)
        drop = min(keep, next_start)
        self.tail, self.tail_start = self.tail[drop:], self.tail_start + drop

    @property
    def complete(self) -> bool:
        return self.ended and len(self.vectors) == self.cut


def _worker_count(sources: Sequence[Any], workers: int | None) -> int:
    if workers is not None:
        return workers
    many = sum(isinstance(s, (str, bytes, os.PathLike)) for s in sources) > 1
    return min(8, os.cpu_count() or 1) if many else 0


@dataclass(frozen=True)
class _Ask:
    """`length` samples of source `index`, at model rate, from sample `start`."""

    index: int
    start: int
    length: int

    def request(self, source: Any, rate_hz: int) -> DecodeRequest:
        # One sample more tells a stretch that goes on from one that ends exactly here.
        duration_s = (self.length + 1) / rate_hz
        return DecodeRequest(source=source, rate_hz=rate_hz, start_s=self.start / rate_hz, duration_s=duration_s)


def _stretches(sources: Sequence[Any], rate_hz: int, workers: int) -> Iterator[tuple[int, Any, bool]]:
    """(index, Sound or AudioError, whether it is the last of its source) for every stretch; files may interleave."""
    stretch = seconds_to_samples(_STRETCH_S, rate_hz)
    pooled = [workers > 0 and isinstance(s, (str, bytes, os.PathLike)) for s in sources]
    for here in (True, False):
        todo = deque(_Ask(i, 0, stretch) for i, p in enumerate(pooled) if p is not here)
        if not todo:
            continue
        with DecodePool(workers=0 if here else workers) as pool:
            while todo:
                asked: deque[_Ask] = deque()
                for _, reply in pool.map(_requests(todo, asked, sources, rate_hz)):
                    ask = asked.popleft()
                    sound, further = _judge(ask, reply, sources[ask.index], rate_hz)
                    if further is not None:
                        # What has been begun is ended first: files in the making hold memory.
                        todo.appendleft(further)
                    if sound is not None:
                        yield ask.index, sound, further is None


def _requests(todo: deque[_Ask], asked: deque[_Ask], sources: Sequence[Any], rate_hz: int) -> Iterator[DecodeRequest]:
    while todo:
        ask = todo.popleft()
        asked.append(ask)
        yield ask.request(sources[ask.index], rate_hz)


def _judge(ask: _Ask, reply: Any, source: Any, rate_hz: int) -> tuple[Any, _Ask | None]:
    """What to hand on (a Sound, an AudioError or nothing yet), and what to ask next (None: the source has ended).

    The decoder judges each stretch by the header as if it were a file. So a file that breaks off early in a later
    stretch is refused there, although more than half of it may have been read: its last samples are found by asking
    for half as much, and then the file is judged as a whole.
    """
    if isinstance(reply, AudioError):
        if ask.start == 0 or not reply.reason.startswith((_TRUNCATED, _ENDED)):
            return reply, None
        if reply.reason.startswith(_TRUNCATED) and ask.length > 1:
            return None, _Ask(ask.index, ask.start, ask.length // 2)
        reply = Sound(np.zeros(0, np.float32), rate_hz, rate_hz, (_TRUNCATED,))
    if len(reply.samples) > ask.length:
        following = _Ask(ask.index, ask.start + ask.length, ask.length)
        return replace(reply, samples=reply.samples[: ask.length]), following
    if ask.start and any(note.startswith(_TRUNCATED) for note in reply.notes):
        return _whole_judged(reply, ask.start + len(reply.samples), source, rate_hz), None
    return reply, None


def _whole_judged(last: Sound, total: int, source: Any, rate_hz: int) -> Sound | AudioError:
    """The last stretch of a file that breaks off, with a note, or an error if less than half of the file is there."""
    promised_s = probe(source).promised_s
    share = total / rate_hz / promised_s if promised_s else 1.0
    if share < 0.5:
        found = f"{total / rate_hz:.2f} of {promised_s:.2f} s that its header promises ({100 * share:.0f} %)"
        return AudioError(describe(source), f"{_TRUNCATED}: {found}")
    kept = tuple(note for note in last.notes if not note.startswith(_TRUNCATED))
    return replace(last, notes=(*kept, f"{_TRUNCATED}: {100 * share:.0f} % of the promised samples"))
