"""Batches, made ahead of the step that uses them, each a pure function of (data, recipe, seed, step)."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence

import numpy as np

from clapkit.audio.windows import fit
from clapkit.data.batches import Batch, BatchSize
from clapkit.data.cache import CachedAudio
from clapkit.data.clip import Clip
from clapkit.data.sampling import TEXTS, VIEWS, Shuffled, stream
from clapkit.data.texts import TextBank, TextChoice, draw_text, soft_target
from clapkit.model import Fill
from clapkit.units import seconds_to_samples
from clapkit.views.audio import samples_of
from clapkit.views.base import View


class Loader:
    """Makes batch number `step` from cached audio.

    `fill` is what becomes of a sound that is shorter than the batch, as in `model.Windowing`; the views come before.
    Views are applied one after the other over the whole batch: a view that needs a partner takes it from the batch as
    the view before it left it. Every row of every view has a random stream of its own.
    """

    def __init__(
        self,
        audio: CachedAudio,
        *,
        views: Sequence[View],
        size: BatchSize,
        texts: TextChoice,
        sampler: Shuffled,
        seed: int,
        fill: Fill = "mask",
    ) -> None:
        self._audio = audio
        self._size = size
        self._texts = texts
        self._sampler = sampler
        self._seed = seed
        self._fill = fill
        self._views = [v for v in views if v.domain == "audio"]
        self._mel_views = [v for v in views if v.domain == "mel"]
        self.clips = described(audio.clips, views, seed)
        self._bank = TextBank(self.clips)
        self._samples = seconds_to_samples(size.clip_s, audio.rate_hz)

    def all_texts(self) -> list[str]:
        """Every text that a clip has, distinct, in a stable order."""
        return list(dict.fromkeys(t for clip in self.clips for t in (*clip.captions, *clip.prompts)))

    def make(self, step: int) -> Batch:
        """Batch number `step`, the same at every call and in every process."""
        rows = self._sampler.rows(len(self._audio), self._size.clips, step, self._seed)
        clips = [self._crop(int(row), step, b) for b, row in enumerate(rows)]
        drawn: dict[str, list] = {}
        for number, view in enumerate(self._views):
            params = [
                dict(view.draw(stream(self._seed, VIEWS, step, b, number + 1), clip, clips))
                for b, clip in enumerate(clips)
            ]
            by_id = {clip.id: clip for clip in clips}
            clips = [view.apply(clip, p, by_id) for clip, p in zip(clips, params, strict=True)]
            drawn[f"{number}:{type(view).__name__}"] = params
        texts, target = self._describe(clips, rows, step)
        samples, lengths = _laid_out([samples_of(clip) for clip in clips], self._samples, self._fill)
        mel_params = tuple(
            tuple(v.draw(stream(self._seed, VIEWS, step, b, 1000 + m), c, clips) for b, c in enumerate(clips))
            for m, v in enumerate(self._mel_views)
        )
        ids = tuple(clip.id for clip in clips)
        return Batch(step, ids, samples, lengths, tuple(texts), target, mel_params, drawn)

    def _crop(self, row: int, step: int, b: int) -> Clip:
        length = self._audio.length_samples(row)
        room = length - self._samples
        first = int(stream(self._seed, VIEWS, step, b, 0).integers(room + 1)) if room > 0 else 0
        samples = self._audio.samples(row, first=first, count=self._samples)
        return self.clips[row].with_(audio=samples)

    def _describe(self, clips: Sequence[Clip], rows: np.ndarray, step: int) -> tuple[list[str], np.ndarray]:
        rng = stream(self._seed, TEXTS, step)
        by_id = {self.clips[row].id: self.clips[row] for row in rows}
        columns = [text for clip in clips if (text := draw_text(rng, clip, self._texts)) is not None]
        columns += self._bank.draw(rng, self._texts.bank)
        columns = list(dict.fromkeys(columns))
        return columns, soft_target(clips, columns, by_id)

    @property
    def mel_views(self) -> Sequence[View]:
        return tuple(self._mel_views)


def described(clips: Sequence[Clip], views: Sequence[View], seed: int) -> tuple[Clip, ...]:
    """The clips with the sentences that the text views give them."""
    text_views = [v for v in views if v.domain == "text"]
    return tuple(_with_texts(clip, text_views, seed, i) for i, clip in enumerate(clips))


def _with_texts(clip: Clip, views: Sequence[View], seed: int, row: int) -> Clip:
    for number, view in enumerate(views):
        clip = view.apply(clip, view.draw(stream(seed, TEXTS, row, number), clip, (clip,)), {clip.id: clip})
    return clip


def _laid_out(sounds: Sequence[np.ndarray], samples: int, fill: Fill) -> tuple[np.ndarray, np.ndarray]:
    """(samples_BN, lengths_B): short sounds filled up as the model's windows are; what fills them counts as sound,
    except under "mask"."""
    padded = np.zeros((len(sounds), samples), np.float32)
    lengths = np.full(len(sounds), samples, np.int64)
    for b, sound in enumerate(sounds):
        if fill == "mask":
            padded[b, : len(sound)], lengths[b] = sound, len(sound)
        else:
            padded[b] = fit(sound, samples, "pad" if fill == "zeros" else fill)
    return padded, lengths


def prefetched(loader: Loader, first: int, end: int, *, ahead: int = 2) -> Iterator[Batch]:
    """Batches `first` to `end` (not included), made by a thread that stays `ahead` of the caller.

    An error in the thread is raised here; leaving the iteration stops the thread.
    """
    ready: queue.Queue = queue.Queue(maxsize=ahead)
    stop = threading.Event()

    def put(item: object) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for step in range(first, end):
                if not put(loader.make(step)):
                    return
        except BaseException as error:
            put(error)

    worker = threading.Thread(target=work, name="clapkit-loader", daemon=True)
    worker.start()
    try:
        for _ in range(first, end):
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        worker.join()
