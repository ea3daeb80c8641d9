"""Where the routes meet the model and the index: queries become vectors, vectors become rows, sounds become both.

A desk has one model and one version of an index for as long as it lives. When either is renewed, another desk takes the
requests that come from then on; those that have begun are answered at the old one, so that no answer mixes the two.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from clapkit.api import Clap
from clapkit.audio.decode import Sound
from clapkit.audio.pool import DecodeRequest
from clapkit.errors import AudioError
from clapkit.nearest import unit_rows
from clapkit.search.lock import ReaderMark
from clapkit.search.query import Query, Shown
from clapkit.server.batching import SearchBatcher, TextBatcher
from clapkit.server.limits import checked_text
from clapkit.server.refusals import Refusal
from clapkit.server.rows import Row, SoundIndex, StoreRows
from clapkit.server.shelf import Shelf
from clapkit.server.spectrogram import spectrogram_png
from clapkit.server.wanted import Example, Wanted
from clapkit.server.workers import Staff
from clapkit.text.prompts import DEFAULT, fill

NEGATIVE_WEIGHT = 0.5  # of what a query is to be without: at 1 it would outweigh what is asked for
_PICTURES_BYTES = 16 << 20  # a few hundred of the small ones that a page shows
_MOMENT_WINDOWS = 50  # looked at for each moment, where the limit on candidates allows it
_POOL = 10


class Reading:
    """Requests that are answered from one space of an index, a `with` each: until the last has its answer, it stays.

    index   one whose space can be removed by others is a store in a folder; all others need no care
    """

    def __init__(self, index: SoundIndex) -> None:
        self._mark = None
        if isinstance(index, StoreRows) and (folder := index.store.place.local) is not None:
            self._mark = ReaderMark(folder, index.view.space.table)
        self._under_way = 0
        self._is_left = False

    def __enter__(self) -> None:
        self._under_way += 1

    def __exit__(self, *exception: object) -> None:
        self._under_way -= 1
        self._let_go()

    def leave(self) -> None:
        """No further requests come."""
        self._is_left = True
        self._let_go()

    def _let_go(self) -> None:
        if self._is_left and not self._under_way and self._mark is not None:
            self._mark.close()


class Desk:
    """Answers the questions of the routes, within the limits of its staff."""

    def __init__(
        self, index: SoundIndex, clap: Clap, shelf: Shelf, texts: TextBatcher, staff: Staff, reading: Reading
    ) -> None:
        self.index, self.clap, self.shelf, self.texts, self.staff = index, clap, shelf, texts, staff
        self.reading = reading
        self.limits = staff.limits
        self._searches = SearchBatcher(self._search)
        self.kept: dict[Any, Any] = {}  # what was worked out about this version, by those who did

    def store(self, what: str, *, status: int = 404) -> StoreRows:
        """The index, if it is a store. Refusal if it is an index of the old kind, which has nothing of the kind."""
        if isinstance(self.index, StoreRows):
            return self.index
        message = f"this index has no {what}: it is of the kind without windows and tags; index the sounds again"
        raise Refusal(status, message)

    async def text_vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Unit-norm vectors [n, d] of texts that were checked."""
        return await self.texts.embed(texts)

    async def sound_vector(self, sound: bytes | str, *, start_s: float = 0.0, end_s: float | None = None) -> np.ndarray:
        """The unit-norm vector [d] of a sound (an upload, or a path), or of a part. Refusal (413) if too long."""
        samples_N = (await self.staff.decoding.run(self._decoded, sound, start_s, end_s)).samples
        return await self.staff.hearing.run(self._heard, samples_N)

    async def labels(
        self, audio_D: np.ndarray, labels: Sequence[str], *, template: str | None = None
    ) -> list[dict[str, Any]]:
        """The labels with their probabilities, best first, as `Clap.classify_vectors` has them."""
        sentence = DEFAULT if template is None else template
        # What a template makes of a label may be much longer than both.
        texts = [checked_text(fill(sentence, label), self.limits, what="template and label") for label in labels]
        logits_C = (await self.text_vectors(texts) @ audio_D).astype(np.float64) * self.clap.program.scale
        weights_C = np.exp(logits_C - logits_C.max())
        probabilities = (weights_C / weights_C.sum()).tolist()
        order = np.argsort(-logits_C, kind="stable").tolist()
        return [{"label": labels[c], "probability": probabilities[c]} for c in order]

    async def query(self, wanted: Wanted) -> Query:
        """The vectors of all that is wanted and of what is not, with the filters. Refusal (422) for nothing wanted."""
        texts = [*wanted.texts, *wanted.without]
        words_ND = await self.text_vectors(texts) if texts else np.empty((0, self.index.dimension), np.float32)
        like = [*words_ND[: len(wanted.texts)]]
        if wanted.sound is not None:
            like.append(await self.sound_vector(wanted.sound, start_s=wanted.start_s, end_s=wanted.end_s))
        like += [await self.example_vector(one) for one in wanted.like]
        if not like:
            raise Refusal(422, "there is nothing to look for: give a text, a sound, rows that it should be like")
        return Query(
            np.stack(like),
            unlike_MD=words_ND[len(wanted.texts) :] if wanted.without else None,
            joined=wanted.joined,
            less=NEGATIVE_WEIGHT,
            words=wanted.words,
            where=[self.shelf.stored_filter(one) for one in wanted.where],
            exact=wanted.exact,
        )

    async def find(self, wanted: Wanted) -> list[tuple[Row, float]]:
        """The rows that a search finds, best first, without those that are its examples, or overlap them."""
        query = await self.query(wanted)
        known = {id for example in wanted.like for id in await self._rows_of(example)}
        count = wanted.k + len(known)
        if wanted.is_plain:
            found = await self.nearest(query.directions()[0], count)
        elif isinstance(self.index, StoreRows):
            found = await self.searching(_found, self.index, query, wanted, count, self.limits.candidates)
        else:
            found = await self.nearest(self._direction(query, wanted), count)
        return [(row, score) for row, score in found if row.id not in known][: wanted.k]

    async def nearest(self, direction_D: np.ndarray, k: int) -> Sequence[tuple[Row, float]]:
        """The `k` rows nearest to a direction, with their cosines."""
        return await self._searches.find(direction_D, k)

    async def searching(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """What a function that reads the index returns, called in a thread."""
        return await self.staff.searching.run(work, *arguments)

    async def row(self, id: str) -> Row:
        """The row of that id; Refusal (404) if there is none."""
        row = await self.searching(self.index.row, id)
        if row is None:
            raise Refusal(404, f"there is no sound with the id '{id}'")
        return row

    async def vector(self, id: str) -> np.ndarray:
        """The vector of the row of that id; Refusal (404) if there is none."""
        vector_D = await self.searching(self.index.vector, id)
        if vector_D is None:
            raise Refusal(404, f"there is no sound with the id '{id}'")
        return vector_D

    async def example_vector(self, example: Example) -> np.ndarray:
        """The unit-norm vector [d] of a row, or of a stretch of its file, which is heard for it."""
        if example.end_s is None:
            return await self.vector(example.id)
        path, _ = self.shelf.find(await self.row(example.id))
        return await self.sound_vector(path, start_s=example.start_s, end_s=example.end_s)

    async def spectrogram(self, row: Row, *, start_s: float, duration_s: float, width: int, height: int) -> bytes:
        """A PNG of `duration_s` seconds of the file of a row, from `start_s`; the last ones that were made are kept."""
        path, _ = self.shelf.find(row)
        changed_ns = os.stat(path).st_mtime_ns
        key = (path, changed_ns, start_s, duration_s, width, height)
        pictures = self.staff.pictures
        if key not in pictures:
            request = DecodeRequest(source=path, start_s=start_s, duration_s=duration_s)
            pictures[key] = await self.staff.decoding.run(self._drawn, request, width, height)
        pictures.move_to_end(key)
        picture = pictures[key]
        while sum(map(len, pictures.values())) > _PICTURES_BYTES:
            pictures.popitem(last=False)
        return picture

    async def _search(self, queries_QD: np.ndarray, k: int) -> Sequence[Sequence[tuple[Row, float]]]:
        return await self.searching(self.index.search, queries_QD, k)

    def _direction(self, query: Query, wanted: Wanted) -> np.ndarray:
        """One direction for an index of the old kind: what is wanted, less half of the mean of what is not."""
        if wanted.where or wanted.words or wanted.moments or wanted.variety or wanted.copies_above is not None:
            self.store("filters, words, moments and variety", status=501)
        if wanted.joined != "mean":
            self.store("examples joined by 'any'", status=501)
        direction_1D = query.like_PD.mean(axis=0)[None]
        if query.unlike_MD is not None:
            direction_1D = direction_1D - NEGATIVE_WEIGHT * query.unlike_MD.mean(axis=0)
        if not np.linalg.norm(direction_1D) > 1e-6:
            raise Refusal(422, "what is wanted and what is not cancel each other: nothing is left to look for")
        return unit_rows(direction_1D, what="the query")[0]

    async def _rows_of(self, example: Example) -> list[str]:
        """The ids of the rows that hold what an example is."""
        if example.end_s is None or not isinstance(self.index, StoreRows):
            return [example.id]
        windows = await self.searching(self.index.windows_beside, example.id)
        ends_s = [row.start_s + (row.duration_s or 0.0) for row in windows]
        beside = zip(windows, ends_s, strict=True)
        return [row.id for row, end_s in beside if row.start_s < example.end_s and example.start_s < end_s]

    def _decoded(self, sound: bytes | str, start_s: float, end_s: float | None) -> Sound:
        limit_s = self.limits.sound_s
        length_s = limit_s if end_s is None else end_s - start_s
        if length_s > limit_s:
            raise Refusal(413, f"{length_s:g} s of the sound are asked for: expected at most {limit_s:g} s")
        decoded = self._in_pool(
            DecodeRequest(source=sound, rate_hz=self.clap.rate_hz, start_s=start_s, duration_s=length_s)
        )
        if end_s is None and not decoded.ends:
            raise Refusal(413, f"the sound is longer than {limit_s:g} s: cut it, or send a part of it")
        return decoded

    def _heard(self, samples_N: np.ndarray) -> np.ndarray:
        return self.clap.embed_audio([(samples_N, self.clap.rate_hz)])[0]

    def _drawn(self, request: DecodeRequest, width: int, height: int) -> bytes:
        sound = self._in_pool(request)
        return spectrogram_png(sound.samples, rate_hz=sound.rate_hz, width=width, height=height)

    def _in_pool(self, request: DecodeRequest) -> Sound:
        ((_, answer),) = self.staff.pool.map([request])
        if isinstance(answer, AudioError):
            raise answer
        return answer


def _found(rows: StoreRows, query: Query, wanted: Wanted, count: int, candidates: int) -> list[tuple[Row, float]]:
    pool = max(1, candidates // count)
    if wanted.moments:
        return rows.find_moments(query, count, pool=min(pool, _MOMENT_WINDOWS))
    relevance = 1 - wanted.variety if wanted.variety else None
    shown = Shown(copies_above=wanted.copies_above, relevance=relevance, pool=min(pool, _POOL))
    return rows.find(query, count, shown=shown)
