"""From sound of any length to one unit vector each, with memory bounded by what is in flight.

Every file is read in stretches of `_STRETCH_S` seconds, whether decoded here or in the pool of processes, so that the
same file gives the same numbers either way. Windows are cut from the stretches as they come, batched across files,
encoded, and averaged when a file has ended.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from clapkit.audio.decode import Sound, probe
from clapkit.audio.lending import borrowed_pool
from clapkit.audio.pool import DecodeRequest
from clapkit.audio.sources import describe
from clapkit.audio.windows import plan_windows
from clapkit.errors import AudioError, SpecError
from clapkit.runtime.cutting import Cut
from clapkit.runtime.lanes import Lanes
from clapkit.runtime.program import Program
from clapkit.units import seconds_to_samples

_STRETCH_S = 120.0
# A batch holds at most so many windows, and so many seconds. On a processor, what lies between two layers of a large
# tower should stay in its cache: HTSAT-tiny takes half as long again for a clip in batches of 32 as in those of 4.
# An accelerator wants large batches, and a bound on its memory: some models take two minutes in one window.
_BATCH = 32
_BATCH_CPU_S = 24.0
_BATCH_ACCELERATOR_S = 320.0
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
class Frames:
    """Unit-norm vectors of the frames of one source, and the middle of each, in seconds."""

    index: int
    frames_TD: np.ndarray
    times_s: np.ndarray
    duration_s: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failed:
    """Why one source has no vector."""

    index: int
    error: AudioError


@dataclass(frozen=True)
class _Ways:
    """How a source is cut, its windows are encoded, and what is made of it in the end."""

    cut: Callable[[int], Cut]
    encode: Callable[[Sequence[Any]], Iterable[np.ndarray]]
    result: Callable[[Cut], Any]


class AudioEngine:
    """Embeds sources with one program (a model in a runtime); `batch_size` windows go through it at once."""

    def __init__(self, program: Program, *, batch_size: int | None = None) -> None:
        if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
            raise SpecError(f"batch_size is a number of windows, at least 1, not {batch_size!r}")
        self._program = program
        self._batch_size = batch_size or _BATCH
        self._filled = program.fills
        self._batch_s = _BATCH_ACCELERATOR_S
        if batch_size is None and program.device == "cpu":
            self._batch_s = _BATCH_CPU_S
        self._rate_hz = program.rate_hz

    def embed(
        self, sources: Sequence[Any], *, workers: int | None = None, on_done: Callable[[int], None] | None = None
    ) -> Iterator[Embedded | Failed]:
        """One result a source, as they are finished; `index` is the position in `sources`.

        workers   decoder processes for paths and bytes; 0 decodes here; default: processes for more than one source
        """
        heard = self._program.window if self._program.longer == "start" else None
        yield from self._run(sources, self._ways(), workers=workers, heard=heard, on_done=on_done)

    def frames(self, sources: Sequence[Any], *, workers: int | None = None) -> Iterator[Frames | Failed]:
        """The vectors of single frames of each source, also of sound that `embed` hears the start of, or fuses."""
        yield from self._run(sources, self._ways_to_frames(), workers=workers)

    def _ways(self) -> _Ways:
        return _Ways(self._program.cut, self._program.encode_windows, self._result)

    def _ways_to_frames(self) -> _Ways:
        program = self._program
        return _Ways(lambda index: Cut(index, program.window, program.hop), program.encode_frames, self._joined)

    def _run(
        self,
        sources: Sequence[Any],
        ways: _Ways,
        *,
        workers: int | None,
        heard: int | None = None,
        on_done: Callable[[int], None] | None = None,
    ) -> Iterator[Any]:
        with Lanes(self._program, ways.encode) as lanes:
            yield from self._through(lanes, sources, ways, workers=workers, heard=heard, on_done=on_done)

    def _through(
        self,
        lanes: Lanes,
        sources: Sequence[Any],
        ways: _Ways,
        *,
        workers: int | None,
        heard: int | None,
        on_done: Callable[[int], None] | None,
    ) -> Iterator[Any]:
        stretches = _stretches(sources, self._rate_hz, _worker_count(sources, workers), heard=heard)
        files: dict[int, Cut] = {}
        waiting: list[tuple[Cut, Any]] = []
        finished = 0
        for index, sound, is_last in stretches:
            if isinstance(sound, AudioError):
                dropped = files.pop(index, None)
                waiting = [w for w in waiting if w[0] is not dropped]
                finished += 1
                yield Failed(index, sound)
            else:
                file = files.get(index) or files.setdefault(index, ways.cut(index))
                waiting.extend((file, window) for window in file.feed(sound.samples, is_last))
                file.notes += tuple(sound.notes)
            while (count := self._ready(waiting)) > 0:
                lanes.put(waiting[:count])
                del waiting[:count]
            lanes.settle()
            for done in [f for f in files.values() if f.complete]:
                finished += 1
                yield ways.result(files.pop(done.index))
            if on_done:
                on_done(finished)
        while waiting:
            count = self._ready(waiting, last=True)
            lanes.put_last(waiting[:count])
            del waiting[:count]
        lanes.finish()
        for file in files.values():
            finished += 1
            yield ways.result(file)
        if on_done:
            on_done(finished)

    def _ready(self, waiting: Sequence[tuple[Cut, Any]], *, last: bool = False) -> int:
        """How many of the first windows make a full batch of one kind; 0 while it is not full (unless `last`)."""
        longest, count = 0, 0
        for _, window in waiting[: self._batch_size]:
            longest = max(longest, self._program.window if self._filled or window.ndim > 1 else len(window))
            too_long = count and longest * (count + 1) > self._batch_s * self._rate_hz
            if too_long or window.ndim != waiting[0][1].ndim:
                return count
            count += 1
        return count if last or count == self._batch_size else 0

    def _result(self, file: Cut) -> Embedded:
        plan = plan_windows(file.total, file.total if file.fused else file.window, file.hop)
        windows_WD = np.stack(file.vectors)
        mean_D = np.array([w.weight for w in plan], np.float64) @ windows_WD.astype(np.float64)
        # Opposite windows could cancel: a zero mean has no direction, and any unit vector would be a lie.
        norm = np.linalg.norm(mean_D)
        vector_D = (mean_D / norm if norm > 1e-12 else windows_WD[0]).astype(np.float32)
        return Embedded(
            index=file.index,
            vector_D=vector_D,
            windows_WD=windows_WD,
            starts_s=tuple((file.skipped + w.start) / self._rate_hz for w in plan),
            window_s=plan[0].length / self._rate_hz,
            duration_s=(file.skipped + file.total) / self._rate_hz,
            notes=file.notes,
        )

    def _joined(self, file: Cut) -> Frames:
        """The frames of all windows in a row; where two overlap, each gives its side of the middle."""
        plan, step_s = plan_windows(file.total, file.window, file.hop), 1.0 / self._program.frame_rate_hz
        bounds_s = [0.0]
        bounds_s += [(a.start + a.length + b.start) / 2 / self._rate_hz for a, b in pairwise(plan)]
        bounds_s += [max(file.total / self._rate_hz, step_s)]
        vectors, times = [], []
        for window, frames_TD, first_s, end_s in zip(plan, file.vectors, bounds_s[:-1], bounds_s[1:], strict=True):
            times_T = window.start / self._rate_hz + (np.arange(len(frames_TD)) + 0.5) * step_s
            own_T = (times_T >= first_s) & (times_T < end_s)
            vectors.append(frames_TD[own_T])
            times.append(times_T[own_T])
        return Frames(
            file.index, np.concatenate(vectors), np.concatenate(times), file.total / self._rate_hz, file.notes
        )


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


def _stretches(
    sources: Sequence[Any], rate_hz: int, workers: int, *, heard: int | None = None
) -> Iterator[tuple[int, Any, bool]]:
    """(index, Sound or AudioError, whether it is the last of its source) for every stretch; files may interleave.

    heard   samples of each source that are wanted, from its start; None: all
    """
    stretch = seconds_to_samples(_STRETCH_S, rate_hz) if heard is None else heard
    pooled = [workers > 0 and isinstance(s, (str, bytes, os.PathLike)) for s in sources]
    for here in (True, False):
        todo = deque(_Ask(i, 0, stretch) for i, p in enumerate(pooled) if p is not here)
        if not todo:
            continue
        with borrowed_pool(0 if here else workers) as pool:
            while todo:
                asked: deque[_Ask] = deque()
                for _, reply in pool.map(_requests(todo, asked, sources, rate_hz)):
                    ask = asked.popleft()
                    sound, further = _judge(ask, reply, sources[ask.index], rate_hz)
                    if heard is not None and sound is not None:
                        further = None
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
