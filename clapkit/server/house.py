"""The desk that takes requests now, and the next one behind it when the index is renewed."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np

from clapkit.api import Clap
from clapkit.errors import ClapkitError, SpaceMismatchError
from clapkit.server.batching import TextBatcher
from clapkit.server.desk import Desk, Reading
from clapkit.server.limits import Limits
from clapkit.server.metrics import Meters
from clapkit.server.rows import SoundIndex, StoreRows
from clapkit.server.shelf import Shelf
from clapkit.server.workers import Staff

_PAUSE_SHARE = 10  # after a renewal so many times as long as it took: an index that grows is not copied all the time
_log = logging.getLogger("clapkit.server")


class House:
    """What the application holds while it runs. Made inside the event loop, ended by `close`.

    model_of   loads the model of another space, when a store has been switched to it; without it the server stays in
               the space that it began in
    """

    def __init__(
        self,
        desk: tuple[SoundIndex, Clap, Shelf],
        *,
        limits: Limits,
        meters: Meters,
        roots: Sequence[str | os.PathLike[str]] = (),
        model_of: Callable[[StoreRows], Clap] | None = None,
    ) -> None:
        self._limits, self._roots, self._model_of = limits, roots, model_of
        self._staff = Staff(limits, meters)
        index, clap, shelf = desk
        self.desk = Desk(index, clap, shelf, self._batcher(clap), self._staff, Reading(index))
        self._leaving: set[asyncio.Task[None]] = set()
        follows = isinstance(index, StoreRows)
        self._watch = asyncio.create_task(self._keep_up()) if follows else None

    async def close(self) -> None:
        """End threads, processes and the looking for newer versions."""
        for task in (*self._leaving, *([self._watch] if self._watch else [])):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await self.desk.texts.close()
        self.desk.reading.leave()
        self._staff.close()

    async def _keep_up(self) -> None:
        pause_s = self._limits.refresh_s
        told = None
        while True:
            await asyncio.sleep(pause_s)
            began = time.perf_counter()
            try:
                await self._renew()
                told = None
            except Exception as error:  # whatever it was, what is served now goes on being served
                self._staff.meters.not_renewed()
                if (words := str(error)) != told:
                    _log.error("the index could not be renewed, the old version stays: %s", error)
                    told = words
            pause_s = max(self._limits.refresh_s, _PAUSE_SHARE * (time.perf_counter() - began))

    async def _renew(self) -> None:
        old = self.desk
        newer = await self._staff.renewing.run(self._newer, old)
        if newer is None:
            return
        index, clap, shelf = newer
        texts = old.texts if clap is old.clap else self._batcher(clap)
        reading = old.reading if index.space_id == old.index.space_id else Reading(index)
        self.desk = Desk(index, clap, shelf, texts, self._staff, reading)
        if reading is not old.reading:
            old.reading.leave()
        if texts is not old.texts:
            leave = asyncio.create_task(self._leave(old.texts))
            self._leaving.add(leave)
            leave.add_done_callback(self._leaving.discard)

    def _newer(self, desk: Desk) -> tuple[SoundIndex, Clap, Shelf] | None:
        assert isinstance(desk.index, StoreRows), "nothing else is renewed"
        rows = desk.index.newest()
        if rows is desk.index:
            return None
        clap = desk.clap
        if rows.space_id != clap.space_id:
            if self._model_of is None:
                raise ClapkitError(f"the store has been switched to space {rows.space_id}: start the server again")
            clap = self._model_of(rows)
            if clap.space_id != rows.space_id:
                raise SpaceMismatchError(rows.space_id, clap.space_id)
            clap.embed_text(["rain"])  # what comes first is slow
        if len(rows):  # and in a large store a copy of all vectors is made by the first search
            rows.search(np.eye(1, rows.dimension, dtype=np.float32), 1)
        return rows, clap, Shelf(rows.files(), roots=self._roots)

    async def _leave(self, texts: TextBatcher) -> None:
        """End an encoder when no request can want it any more: the last ones have their answer, or were refused."""
        try:
            await asyncio.sleep(self._limits.answer_s)
        finally:
            await texts.close()

    def _batcher(self, clap: Clap) -> TextBatcher:
        limits = self._limits
        return TextBatcher(
            clap.embed_text,
            window_s=limits.window_s,
            texts_at_once=limits.texts_at_once,
            most_waiting=limits.texts_waiting,
            on_batch=self._staff.meters.batch,
        )
