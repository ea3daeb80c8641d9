"""Texts of many requests through the encoder in one call, and their vectors through the index in one search.

A text encoder takes little longer for ten short texts than for one. So the first text that comes to an idle encoder
waits a few milliseconds for others; those that come while it works go together into the next call. An index reads all
of its vectors once for ten queries as for one; nobody waits for others there, who come together anyhow.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from clapkit.server.refusals import Refusal


@dataclass(frozen=True)
class _Job:
    texts: tuple[str, ...]
    answer: asyncio.Future[np.ndarray]


class TextBatcher:
    """Joins texts of concurrent requests; every request gets the vectors that it would get alone.

    embed_text     list of texts -> vectors [n, d], rows that do not depend on each other; runs in a thread of its own
    window_s       how long the first text waits for others while the encoder is idle
    texts_at_once  most texts of one call; a longer request goes in parts, between which others have their turn
    most_waiting   texts that may wait; beyond them a request is refused with status 429
    on_batch       told the number of texts of each call
    """

    def __init__(
        self,
        embed_text: Callable[[Sequence[str]], np.ndarray],
        *,
        window_s: float = 0.003,
        texts_at_once: int = 32,
        most_waiting: int = 1024,
        on_batch: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._embed_text, self._on_batch = embed_text, on_batch
        self._window_s, self._texts_at_once, self._most_waiting = window_s, texts_at_once, most_waiting
        self._jobs: deque[_Job] = deque()
        self._waiting = 0
        self._came = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "clapkit-text")
        self._runner: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Texts of requests that have no answer yet."""
        return self._waiting

    async def embed(self, texts: Sequence[str]) -> np.ndarray:
        """One vector a text, float32 [n, d]. Refusal (429) when too many texts wait already."""
        if self._waiting + len(texts) > self._most_waiting:
            message = f"{self._waiting} texts wait for the encoder already: try again in a moment"
            raise Refusal.busy(message)
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        self._waiting += len(texts)
        try:
            parts = range(0, len(texts), self._texts_at_once)
            return np.concatenate([await self._part(texts[n : n + self._texts_at_once]) for n in parts])
        finally:
            self._waiting -= len(texts)

    async def close(self) -> None:
        """End the thread; requests that still wait are cancelled."""
        if self._runner is not None:
            self._runner.cancel()
            with suppress(asyncio.CancelledError):
                await self._runner
        for job in self._jobs:
            job.answer.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _part(self, texts: Sequence[str]) -> np.ndarray:
        job = _Job(tuple(texts), asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self._came.set()
        return await job.answer

    async def _run(self) -> None:
        while True:
            if not self._jobs:
                self._came.clear()
                await self._came.wait()
            await asyncio.sleep(self._window_s)
            while self._jobs:
                batch = self._next_batch()
                try:
                    if batch:
                        await self._encode(batch)
                finally:
                    for job in batch:
                        job.answer.cancel()  # of those without an answer: this task was ended

    def _next_batch(self) -> list[_Job]:
        batch: list[_Job] = []
        count = 0
        while self._jobs and (not batch or count + len(self._jobs[0].texts) <= self._texts_at_once):
            job = self._jobs.popleft()
            if not job.answer.done():  # whoever asked may have gone
                batch.append(job)
                count += len(job.texts)
        return batch

    async def _encode(self, batch: list[_Job]) -> None:
        """Answer the jobs of a batch; where the call fails, each alone, so that one bad text costs its request only."""
        distinct = {text: row for row, text in enumerate(dict.fromkeys(text for job in batch for text in job.texts))}
        loop = asyncio.get_running_loop()
        try:
            vectors_ND = await loop.run_in_executor(self._thread, self._embed_text, list(distinct))
        except Exception as error:
            if len(batch) > 1:
                for job in batch:
                    await self._encode([job])
            elif not batch[0].answer.done():
                batch[0].answer.set_exception(error)
            return
        self._on_batch(len(distinct))
        for job in batch:
            if not job.answer.done():
                job.answer.set_result(vectors_ND[[distinct[text] for text in job.texts]])


@dataclass(frozen=True)
class _Search:
    direction_D: np.ndarray
    k: int
    answer: asyncio.Future[Any]


class SearchBatcher:
    """Joins searches of concurrent requests; every request gets what it would get alone.

    search    runs `queries [q, d], k` -> one result a query
    at_once   most queries of one call
    """

    def __init__(self, search: Callable[[np.ndarray, int], Awaitable[Sequence[Any]]], *, at_once: int = 16) -> None:
        self._search, self._at_once = search, at_once
        self._waiting: deque[_Search] = deque()
        self._runner: asyncio.Task[None] | None = None

    async def find(self, direction_D: np.ndarray, k: int) -> Any:
        """What the search returns for this direction."""
        job = _Search(direction_D, k, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        return await job.answer

    async def _run(self) -> None:
        try:
            while batch := self._next_batch():
                await self._answer(batch)
        finally:
            self._runner = None

    async def _answer(self, batch: list[_Search]) -> None:
        try:
            found = await self._search(np.stack([job.direction_D for job in batch]), batch[0].k)
            for job, answer in zip(batch, found, strict=True):
                if not job.answer.done():
                    job.answer.set_result(answer)
        except Exception as error:
            for job in batch:
                if not job.answer.done():
                    job.answer.set_exception(error)
        finally:
            for job in batch:
                job.answer.cancel()  # of those without an answer: the server ends

    def _next_batch(self) -> list[_Search]:
        """The searches that came first and want as many results as the first of them."""
        batch: list[_Search] = []
        while self._waiting and len(batch) < self._at_once and (not batch or self._waiting[0].k == batch[0].k):
            job = self._waiting.popleft()
            if not job.answer.done():  # whoever asked may have gone
                batch.append(job)
        return batch
