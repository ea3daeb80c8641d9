"""Decoder processes that outlive a call: starting them takes half a second, longer than many a call needs them."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from clapkit.audio.pool import DecodePool

IDLE_S = 20.0  # after which a pool that nobody has asked for is closed

_lock = threading.Lock()
_idle: dict[tuple[int, int], tuple[DecodePool, threading.Timer]] = {}


@contextmanager
def borrowed_pool(workers: int) -> Iterator[DecodePool]:
    """A pool of `workers` processes, perhaps one that an earlier call has left; nobody else has it meanwhile.

    What was used to its end is kept for `IDLE_S` seconds; after an exception, or when the block is left early, requests
    may be under way, and the pool is closed.
    """
    key = os.getpid(), workers  # the processes of a parent are not ours after a fork
    with _lock:
        kept = _idle.pop(key, None)
    if kept is not None:
        kept[1].cancel()
    pool = DecodePool(workers=workers) if kept is None else kept[0]
    try:
        yield pool
    except BaseException:
        pool.close()
        raise
    if workers == 0:
        pool.close()
        return
    timer = threading.Timer(IDLE_S, _expire, [key, pool])
    timer.daemon = True
    with _lock:
        former = _idle.pop(key, None)
        _idle[key] = pool, timer
    timer.start()
    if former is not None:  # of a call at the same time
        former[1].cancel()
        former[0].close()


def _expire(key: tuple[int, int], pool: DecodePool) -> None:
    with _lock:
        if key not in _idle or _idle[key][0] is not pool:
            return
        del _idle[key]
    pool.close()


@atexit.register
def _close_all() -> None:
    with _lock:
        mine = [kept for key, kept in _idle.items() if key[0] == os.getpid()]
        _idle.clear()
    for pool, timer in mine:
        timer.cancel()
        pool.close()
