"""Slow work in a few threads and processes, with a bound on what waits for them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from clapkit.audio.pool import DecodePool
from clapkit.server.limits import Limits
from clapkit.server.metrics import Meters
from clapkit.server.refusals import Refusal

_T = TypeVar("_T")


class Workers:
    """`threads` threads, for which at most `most_waiting` calls wait; beyond them a call is refused with status 429.

    A call that nobody waits for any more keeps its place until it has ended: only so is the work bounded.
    """

    def __init__(self, what: str, *, threads: int, most_waiting: int) -> None:
        self._what = what
        self._most = threads + most_waiting
        self._under_way = 0
        self._threads = ThreadPoolExecutor(threads, f"clapkit-{what}")

    async def run(self, work: Callable[..., _T], *arguments: Any) -> _T:
        """What `work(*arguments)` returns or raises, done in a thread."""
        if self._under_way >= self._most:
            message = f"{self._under_way} sounds wait already ({self._what}): try again in a moment"
            raise Refusal.busy(message, after_s=2)
        loop = asyncio.get_running_loop()
        future = self._threads.submit(work, *arguments)
        self._under_way += 1
        future.add_done_callback(lambda done: self._ended(loop, done))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Drop what waits; what runs is left to end by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _ended(self, loop: asyncio.AbstractEventLoop, _: Future[Any]) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._leave)

    def _leave(self) -> None:
        self._under_way -= 1


class Staff:
    """Who decodes, hears, searches and surveys for all requests, whatever version they are answered from.

    pictures   those that were drawn last
    """

    def __init__(self, limits: Limits, meters: Meters) -> None:
        self.limits, self.meters = limits, meters
        waiting = limits.sounds_waiting
        self.pool = DecodePool(workers=limits.decoders, deadline_s=limits.decode_s)
        self.decoding = Workers("decoding", threads=limits.decoders, most_waiting=waiting)
        self.hearing = Workers("hearing", threads=1, most_waiting=limits.decoders + waiting)
        self.searching = Workers("searching", threads=2, most_waiting=limits.requests)
        self.surveying = Workers("surveying", threads=2, most_waiting=waiting)  # one may draw a map for long
        self.renewing = Workers("renewing", threads=1, most_waiting=0)
        self.pictures: OrderedDict[tuple[Any, ...], bytes] = OrderedDict()

    def close(self) -> None:
        """End threads and processes."""
        for workers in (self.decoding, self.hearing, self.searching, self.surveying, self.renewing):
            workers.close()
        self.pool.close()
