"""Untrusted sound decoded in processes of their own: a file that kills or hangs its decoder costs that file only."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from clapkit.audio.decode import Sound, check_range, decode
from clapkit.audio.resample import checked_rate
from clapkit.audio.sources import Source, describe
from clapkit.audio.spans import MAX_SAMPLES
from clapkit.audio.worker import ProtocolError, pack_source, receive, send, unpack_sound
from clapkit.errors import AudioError, ClapkitError, SpecError

_AHEAD = 3  # requests in flight or waiting to be fetched, for each worker
_START_LIMIT_S = 120.0
_PIPE_BYTES = 1 << 20  # where the system can: a clip of 10 s goes through in two gulps, not in thirty
_CLOSED = "the decoder pool is closed: open a new DecodePool"
# For glibc: memory of a clip that is done with is kept for the next one. Given back and taken again, each of its pages
# would cost a fault, in all as long as reading the clip. Other C libraries do not know these names.
_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 25), "MALLOC_TRIM_THRESHOLD_": str(1 << 26)}
_LEAST_MEMORY_MIB = 1024  # the libraries alone take several hundred


@dataclass(frozen=True)
class DecodeRequest:
    """What `decode` is to be called with. Raises SpecError for a rate or a range that is none."""

    source: Source
    rate_hz: int | None = None
    start_s: float = 0.0
    duration_s: float | None = None
    max_duration_s: float | None = None

    def __post_init__(self) -> None:
        check_range(self.start_s, self.duration_s)
        if self.rate_hz is not None:
            checked_rate(self.rate_hz)

    @property
    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of `decode`, as plain numbers."""
        durations = {"duration_s": self.duration_s, "max_duration_s": self.max_duration_s}
        return {
            "rate_hz": None if self.rate_hz is None else int(self.rate_hz),
            "start_s": float(self.start_s),
            **{name: None if value is None else float(value) for name, value in durations.items()},
        }


class DecodePool:
    """Decoder processes, started when first needed and again after a death.

    workers            how many; 0 decodes in this process: no deadline, no memory limit, no protection
    deadline_s         what one request may take
    memory_limit_mib   address space of one worker (POSIX), None for no limit

    The processes are started with the same interpreter and import path, not forked: they need no `__main__` that can be
    imported, no guard in the script, and know nothing of torch. They end with `close()`, with the `with` block, or when
    this process ends in whatever way.
    """

    def __init__(self, *, workers: int = 1, deadline_s: float = 60.0, memory_limit_mib: int | None = 4096) -> None:
        if workers < 0:
            raise SpecError(f"workers is {workers}: expected 0 (decode here) or more")
        if not (math.isfinite(deadline_s) and deadline_s > 0):
            raise SpecError(f"deadline_s is {deadline_s}: expected a finite number of seconds above 0")
        if memory_limit_mib is not None and memory_limit_mib < _LEAST_MEMORY_MIB:
            raise SpecError(f"memory_limit_mib is {memory_limit_mib}: expected at least {_LEAST_MEMORY_MIB}, or None")
        self._closed = False
        self._count = workers
        self._workers = [_Worker(deadline_s, memory_limit_mib) for _ in range(workers)]
        self._free: SimpleQueue[_Worker] = SimpleQueue()
        for worker in self._workers:
            self._free.put(worker)
        self._threads = ThreadPoolExecutor(workers, "clapkit-decode") if workers else None

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes, also those that are decoding."""
        self._closed = True
        for worker in self._workers:
            worker.kill()
        if self._threads:
            self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in self._workers:
            worker.end()

    @property
    def process_ids(self) -> tuple[int, ...]:
        """The processes that run now."""
        return tuple(pid for worker in self._workers if (pid := worker.process_id) is not None)

    def map(self, requests: Iterable[DecodeRequest]) -> Iterator[tuple[int, Sound | AudioError]]:
        """(position, Sound or AudioError) for each request, in order.

        At most three requests a worker are taken ahead of what was fetched, so that neither a long iterable nor its
        sounds pile up. Raises ClapkitError when a process cannot be started at all.
        """
        if self._closed:
            raise ClapkitError(_CLOSED)
        return self._results(requests)

    def _results(self, requests: Iterable[DecodeRequest]) -> Iterator[tuple[int, Sound | AudioError]]:
        waiting: deque[Future[Sound | AudioError]] = deque()
        position = 0
        try:
            for request in requests:
                waiting.append(self._submit(request))
                if len(waiting) >= max(1, _AHEAD * self._count):
                    yield position, _result(waiting.popleft())
                    position += 1
            while waiting:
                yield position, _result(waiting.popleft())
                position += 1
        finally:
            for future in waiting:
                future.cancel()

    def _submit(self, request: DecodeRequest) -> Future[Sound | AudioError]:
        if self._threads:
            try:
                return self._threads.submit(self._in_worker, request)
            except RuntimeError:
                raise ClapkitError(_CLOSED) from None
        done: Future[Sound | AudioError] = Future()
        try:
            done.set_result(decode(request.source, **request.arguments))
        except AudioError as error:
            done.set_result(error)
        return done

    def _in_worker(self, request: DecodeRequest) -> Sound | AudioError:
        worker = self._free.get()
        try:
            return worker.decode(request)
        except AudioError as error:
            return error
        finally:
            self._free.put(worker)


def _result(future: Future[Sound | AudioError]) -> Sound | AudioError:
    try:
        return future.result()
    except CancelledError:
        raise ClapkitError(_CLOSED) from None


class _Worker:
    """One decoder process and the pipe to it; used by one thread at a time."""

    def __init__(self, deadline_s: float, memory_limit_mib: int | None) -> None:
        self._deadline_s, self._memory_limit_mib = deadline_s, memory_limit_mib
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()  # over starting and ending
        self._closed = False

    @property
    def process_id(self) -> int | None:
        process = self._process
        return process.pid if process and process.poll() is None else None

    def decode(self, request: DecodeRequest) -> Sound:
        """Raises AudioError for everything that is the fault of the file, ClapkitError when no process starts."""
        name = describe(request.source)
        source, payload = pack_source(request.source)
        answer, samples = self._ask({**source, "arguments": request.arguments}, payload, name)
        if "reason" in answer:
            raise AudioError(name, str(answer["reason"]))
        try:
            return unpack_sound(answer, samples)
        except ProtocolError as error:
            self.end()
            raise AudioError(name, f"the decoder process answered nonsense: {error}") from None

    def _ask(self, header: dict[str, Any], payload: Any, name: str) -> tuple[dict[str, Any], bytearray]:
        is_second_try = False
        while True:
            process = self._running()
            assert process.stdin and process.stdout
            deadline = _Deadline(process, self._deadline_s)
            answer, sent = None, False
            try:
                send(process.stdin, header, payload)  # type: ignore[arg-type]
                sent = True
                answer = receive(process.stdout, max_bytes=8 * MAX_SAMPLES)  # type: ignore[arg-type]
            except (ProtocolError, OSError, ValueError):
                pass
            late = deadline.stop()
            status = self.end() if late or answer is None else None
            if answer is not None:
                return answer
            if self._closed:
                raise AudioError(name, "the decoder pool was closed")
            if late:
                raise AudioError(name, f"decoding took more than {self._deadline_s:g} s")
            if sent or is_second_try:
                raise AudioError(name, f"the decoder process died (exit status {status})")
            is_second_try = True  # it had died while idle, which is not the fault of this file

    def _running(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._closed:
                raise ClapkitError(_CLOSED)
            if self._process is None:
                self._process = _start(self._deadline_s, self._memory_limit_mib)
            return self._process

    def kill(self) -> None:
        """End the process now, for good; a decode that waits for it fails."""
        self._closed = True
        with self._lock:
            if self._process:
                self._process.kill()

    def end(self) -> int | None:
        """End the process and close its pipes; the exit status."""
        with self._lock:
            process, self._process = self._process, None
        return _dispose(process) if process else None


def _start(deadline_s: float, memory_limit_mib: int | None) -> subprocess.Popen[bytes]:
    """A decoder process that has said that it is ready. Raises ClapkitError with its last words when it does not."""
    here = str(Path(__file__).resolve().parents[2])
    paths = [*(os.path.abspath(p) for p in sys.path), here]
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    alarm_s = math.ceil(deadline_s) + 5  # behind the deadline of the parent
    with tempfile.TemporaryFile() as last_words:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "clapkit.audio.worker", str(memory_limit_mib or 0), str(alarm_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=last_words,
            env=os.environ | single | _KEEP_MEMORY | {"PYTHONPATH": os.pathsep.join(paths)},
            pipesize=_PIPE_BYTES,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        deadline = _Deadline(process, _START_LIMIT_S)
        try:
            receive(process.stdout, max_bytes=0)  # type: ignore[arg-type]
        except (ProtocolError, OSError) as error:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
            status = _dispose(process)
            last_words.seek(0)
            said = last_words.read().decode(errors="replace").strip().splitlines()[-1:] or [str(error)]
            raise ClapkitError(f"no decoder process could be started (exit status {status}): {said[0]}") from None
        finally:
            deadline.stop()
    return process


def _dispose(process: subprocess.Popen[bytes]) -> int:
    """End a process and close the pipes to it; the exit status."""
    process.kill()
    status = process.wait()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):  # what could not be written any more
            pipe.close()  # type: ignore[union-attr]
    return status


class _Deadline:
    """Kills a process after a time, unless stopped before."""

    def __init__(self, process: subprocess.Popen, seconds: float) -> None:
        self.passed = False
        self._process = process
        self._lock = threading.Lock()
        self._stopped = False
        self._timer = threading.Timer(seconds, self._kill)
        self._timer.daemon = True
        self._timer.start()

    def _kill(self) -> None:
        with self._lock:
            if not self._stopped:
                self.passed = True
                self._process.kill()

    def stop(self) -> bool:
        """From now on nothing is killed; True when it already was."""
        with self._lock:
            self._stopped = True
        self._timer.cancel()
        return self.passed
