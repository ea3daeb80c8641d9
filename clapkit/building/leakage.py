"""The leakage guard: what a test set shares with a training set, by sound and by text.

Sound is compared by fingerprint, so a clip is found that was encoded again, made louder or quieter, or cut. Captions
are compared as words: case, punctuation and spacing do not count. Labels are not compared: that a class has the same
name on both sides is what a class is.
"""

from __future__ import annotations

import dataclasses
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from clapkit.audio.lending import borrowed_pool
from clapkit.audio.pool import DecodeRequest
from clapkit.audio.sources import Source
from clapkit.data.clip import Clip
from clapkit.errors import AudioError, AudioFailure, DataError
from clapkit.search.fingerprint import RATE_HZ, THRESHOLD, Fingerprint, FingerprintIndex, fingerprint

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class SharedSound:
    """A test clip and a training clip with the same sound in them.

    `offset_s` is where in the training clip the test clip begins; `agreement` as in `search.fingerprint.Match`.
    """

    test: str
    train: str
    agreement: float
    offset_s: float


@dataclass(frozen=True)
class SharedText:
    """A caption that stands on both sides, as the test set has it; the clips that have it."""

    text: str
    test: tuple[str, ...]
    train: tuple[str, ...]


@dataclass(frozen=True)
class Leakage:
    """What was found.

    sounds    test clips that are training clips, encoded again or not, or cuts of them, or hold one whole; best first
              for each test clip
    overlaps  test clips that share a part with a training clip, and both have more: two cuts of one recording
    texts     in the order of the test set
    unjudged  clips with too little sound to tell them from others (nearly silent, or a fraction of a second)
    failures  clips that could not be decoded; `index` counts through the training clips, then the test clips
    """

    train_clips: int
    test_clips: int
    sounds: tuple[SharedSound, ...]
    overlaps: tuple[SharedSound, ...]
    texts: tuple[SharedText, ...]
    unjudged: tuple[str, ...]
    failures: tuple[AudioFailure, ...]
    threshold: float

    @property
    def heard(self) -> tuple[str, ...]:
        """Ids of the test clips whose sound is in the training set."""
        return tuple(dict.fromkeys(shared.test for shared in self.sounds))

    @property
    def heard_in_part(self) -> tuple[str, ...]:
        """Ids of the other test clips of which training heard a part."""
        whole = set(self.heard)
        return tuple(dict.fromkeys(shared.test for shared in self.overlaps if shared.test not in whole))

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        ids = {"heard": list(self.heard), "heard_in_part": list(self.heard_in_part)}
        return {**dataclasses.asdict(self), **ids}


def find_leakage(
    train: Sequence[Clip],
    test: Sequence[Clip],
    *,
    threshold: float = THRESHOLD,
    workers: int = 1,
    progress: Progress | None = None,
) -> Leakage:
    """What `test` shares with `train`.

    threshold  agreement from which two sounds are the same (see `proofs/leakage_guard.py` for what it errs)
    workers    decoder processes; 0 decodes in this one
    progress   called with (clips heard, clips in all)
    Raises DataError for a side without clips and for ids that a side has twice.
    """
    _check(train, "training")
    _check(test, "test")
    clips = [*train, *test]
    index = FingerprintIndex()
    sounds: list[SharedSound] = []
    overlaps: list[SharedSound] = []
    unjudged: list[str] = []
    failures: list[AudioFailure] = []
    for i, heard in _prints(clips, workers):
        clip = clips[i]
        if isinstance(heard, AudioError):
            failures.append(AudioFailure(i, heard.source, heard.reason))
        elif not heard.judgeable:
            unjudged.append(clip.id)
        elif i < len(train):
            index.add([clip.id], [heard])
        else:
            for hit in index.search(heard, threshold=threshold):
                shared = SharedSound(clip.id, hit.id, hit.agreement, hit.offset_s)
                (sounds if hit.whole else overlaps).append(shared)
        if progress is not None:
            progress(i + 1, len(clips))
    texts = shared_texts(train, test)
    found = tuple(sounds), tuple(overlaps), texts, tuple(unjudged), tuple(failures)
    return Leakage(len(train), len(test), *found, threshold)


def shared_texts(train: Sequence[Clip], test: Sequence[Clip]) -> tuple[SharedText, ...]:
    """Captions of the test clips that a training clip has in the same words."""
    known: dict[str, list[str]] = defaultdict(list)
    for clip in train:
        for words in {_words(text) for text in clip.captions}:
            known[words].append(clip.id)
    asked: dict[str, dict[str, str]] = defaultdict(dict)  # words -> clip id -> the caption as it stands
    for clip in test:
        for text in clip.captions:
            if _words(text) in known:
                asked[_words(text)].setdefault(clip.id, text)
    return tuple(
        SharedText(next(iter(written.values())), tuple(written), tuple(known[words]))
        for words, written in asked.items()
    )


def _words(text: str) -> str:
    """The caption without case, punctuation and spacing."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return " ".join("".join(letter if letter.isalnum() else " " for letter in plain).split())


def _check(clips: Sequence[Clip], side: str) -> None:
    twice = sorted(name for name, times in Counter(clip.id for clip in clips).items() if times > 1)
    if not clips or twice:
        raise DataError(f"{len(clips)} {side} clips; expected at least one, and each id once", twice)


def _prints(clips: Sequence[Clip], workers: int) -> Iterator[tuple[int, Fingerprint | AudioError]]:
    """(position, fingerprint or what went wrong), in order."""
    requests = (
        DecodeRequest(source=_source(clip), rate_hz=RATE_HZ, start_s=clip.start_s, duration_s=clip.duration_s)
        for clip in clips
    )
    with borrowed_pool(workers) as pool:
        for i, sound in pool.map(requests):
            yield i, sound if isinstance(sound, AudioError) else fingerprint(sound.samples, rate_hz=RATE_HZ)


def _source(clip: Clip) -> Source:
    if isinstance(clip.audio, (str, bytes)):
        return clip.audio
    if clip.rate_hz is None:
        raise DataError(f"clip {clip.id} is an array of samples without a rate: Clip(..., rate_hz=...)")
    return clip.audio, clip.rate_hz
