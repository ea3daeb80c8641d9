"""Acoustic fingerprints: the same recording found again after a codec, a change of gain, or a cut.

A frame of 128 ms every 16 ms is one 32-bit word: of 33 bands the logarithm of their power, its difference between
neighbouring bands, how that changed over one frame length, and of this ripple the sign (after Haitsma and Kalker 2002).
Two changes make it hold for sound effects, which are often short, quiet or steady: a floor is added to each power, so
that silence is flat and not what a codec makes of it, and a sign whose ripple is small counts as unheard instead of
being a coin toss. Two recordings of rain agree no better than chance: signs follow the ripples of the one recording.

Equal sound is found by an inverted index: words of 20 bits, sampled from two frames, vote for a clip and an offset; the
query asks for each word with all values of its 5 weakest bits, which is where a codec errs. The alignments with most
votes are compared frame by frame, and what a hit means is `Match.agreement` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clapkit.audio.resample import resample
from clapkit.errors import DataError, SpecError

FINGERPRINT_VERSION = 1  # raise it whenever the same samples give other bits
RATE_HZ = 16_000
HOP_SAMPLES = 256
WINDOW_SAMPLES = 2048
BITS = 32
_LAG_FRAMES = 8  # one window: shorter differences are small, and a codec turns their sign
# Agreement from which two sounds are the same recording: proofs/leakage_guard.py measures both errors at it.
THRESHOLD = 0.4
# Share of what one of two sounds says that has to lie in the overlap for it to be a copy, or a cut, of the other. A cut
# makes an edge that the other has not, and so does silence after it; frames that reach beyond it by a window and a lag
# still hear it. The rest is what codecs add at the ends.
_WHOLE, _EDGE_FRAMES = 0.97, 16

_BANDS_HZ = (200.0, 6000.0)
_FLOOR_DB = -100.0  # in each band, below full scale
_SMALLEST = 0.2  # ripples of natural log power below this say nothing
_FRAMES_AT_ONCE = 2048
# An overlap is judged when both sides say at least so much in it: a second of sound, or so.
_LEAST_BITS = 1000

_TABLES = 8
_KEY_BITS = 20  # half of them of one frame, half of another
_KEY_REACH_FRAMES = 16
_WEAKEST = 5
_KEY_LEAST = 6  # bits of a word that have to say something: silence is found everywhere
_STORED_EVERY_FRAMES = 4
_BUCKET = 2000  # of an overfull bucket (a steady hum) this many entries, evenly spread, vote
_CANDIDATES = 128


@dataclass(frozen=True)
class Fingerprint:
    """One sound: the signs of each frame, and which of them say something (uint32 [T] both).

    `ripples_TB` (float16 [T, 32]) is what the signs are of; a search needs it of its query, an index keeps none.
    A sound shorter than two windows has no frames, and silence has none that say something.
    """

    signs_T: np.ndarray
    heard_T: np.ndarray
    ripples_TB: np.ndarray

    def __len__(self) -> int:
        return len(self.signs_T)

    @property
    def heard_bits(self) -> int:
        """How many signs say something: about 1,500 a second of lively sound."""
        return int(_ones(self.heard_T).sum())

    @property
    def judgeable(self) -> bool:
        """Whether there is enough sound in it to be told from others."""
        return self.heard_bits >= _LEAST_BITS


@dataclass(frozen=True)
class Match:
    """A sound that was found: `agreement` is 1 for the same bits and about 0 for another recording.

    offset_s  where in the found sound the query begins; negative where the query begins earlier
    whole     one of the two lies in the other: a copy, or a cut of it. If not, they share a part, as two cuts from
              different places of one recording do
    """

    id: str
    agreement: float
    offset_s: float
    whole: bool


def fingerprint(samples: np.ndarray, *, rate_hz: int) -> Fingerprint:
    """The fingerprint of mono samples [N], full scale 1. DataError for other shapes and for values not finite."""
    samples = np.asarray(samples, np.float32)
    if samples.ndim != 1 or not np.isfinite(samples).all():
        raise DataError(f"samples of shape {samples.shape}: expected one row of finite numbers, mono")
    samples = resample(samples, rate_hz, RATE_HZ)
    if len(samples) < WINDOW_SAMPLES + _LAG_FRAMES * HOP_SAMPLES:
        return Fingerprint(np.zeros(0, np.uint32), np.zeros(0, np.uint32), np.zeros((0, BITS), np.float16))
    slope_TB = -np.diff(_log_powers(samples), axis=1)
    ripples_TB = slope_TB[_LAG_FRAMES:] - slope_TB[:-_LAG_FRAMES]
    heard_T = _packed(np.abs(ripples_TB) > _SMALLEST)
    return Fingerprint(_packed(ripples_TB > 0), heard_T, ripples_TB.astype(np.float16))


def agreement(query: Fingerprint, other: Fingerprint, *, offset_frames: int) -> float:
    """How well two sounds agree where they overlap, `query` beginning at frame `offset_frames` of `other`.

    Signs that agree minus those that do not, over the root of how many say something on either side; 0 where that is
    too little to judge.
    """
    return _compared(query, other, offset_frames)[0]


def _compared(query: Fingerprint, other: Fingerprint, offset_frames: int) -> tuple[float, float]:
    """The agreement, and the larger share of the two sounds (of what they say) that lies in the overlap."""
    first = max(0, offset_frames)
    last = min(len(other), offset_frames + len(query))
    if last <= first:
        return 0.0, 0.0
    mine, theirs = slice(first - offset_frames, last - offset_frames), slice(first, last)
    said, heard = int(_ones(query.heard_T[mine]).sum()), int(_ones(other.heard_T[theirs]).sum())
    if min(said, heard) < _LEAST_BITS:
        return 0.0, 0.0
    both_T = query.heard_T[mine] & other.heard_T[theirs]
    unlike = int(_ones((query.signs_T[mine] ^ other.signs_T[theirs]) & both_T).sum())
    share = max(_within(query, mine), _within(other, theirs))
    return float((int(_ones(both_T).sum()) - 2 * unlike) / np.sqrt(said * heard)), share


def _within(one: Fingerprint, frames: slice) -> float:
    """The share of what a sound says that lies in these frames, or at their edges."""
    reached = slice(max(0, frames.start - _EDGE_FRAMES), frames.stop + _EDGE_FRAMES)
    return int(_ones(one.heard_T[reached]).sum()) / one.heard_bits


class FingerprintIndex:
    """Fingerprints of many sounds, and which of them hold a query.

    About 8 kB a clip of 5 s; the index is built when it is first searched after something was added.
    """

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._prints: list[Fingerprint] = []
        self._tables: list[tuple[np.ndarray, np.ndarray]] | None = None
        self._starts = np.zeros(1, np.int64)

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, ids: Sequence[str], prints: Sequence[Fingerprint]) -> None:
        """Take sounds in. DataError unless there is one id for each."""
        if len(ids) != len(prints):
            raise DataError(f"{len(ids)} ids for {len(prints)} fingerprints: expected one each")
        self._ids += ids
        nothing_TB = np.zeros((0, BITS), np.float16)
        self._prints += [Fingerprint(one.signs_T, one.heard_T, nothing_TB) for one in prints]
        self._tables = None

    def search(self, query: Fingerprint, *, threshold: float = THRESHOLD) -> list[Match]:
        """The sounds that agree with `query` by at least `threshold`, best first.

        Each at its best offset. One at which a sound is whole is better than any at which it is not: what repeats
        itself agrees in part at many.
        """
        if not 0 < threshold <= 1:
            raise SpecError(f"threshold is {threshold}: expected an agreement above 0 and at most 1")
        best: dict[int, tuple[bool, float, int]] = {}
        for clip, offset in self._candidates(query):
            for near in (offset, offset - 1, offset + 1):
                found, share = _compared(query, self._prints[clip], near)
                whole = share >= _WHOLE
                if found >= threshold and (whole, found) > best.get(clip, (False, 0.0))[:2]:
                    best[clip] = whole, found, near
                if found < threshold / 2:  # a frame to the side hardly doubles it
                    break
        hits = sorted((-score, clip, offset, whole) for clip, (whole, score, offset) in best.items())
        return [
            Match(self._ids[clip], -minus, offset * HOP_SAMPLES / RATE_HZ, whole) for minus, clip, offset, whole in hits
        ]

    def _candidates(self, query: Fingerprint) -> list[tuple[int, int]]:
        """(place, offset in frames) of the alignments with most votes."""
        if self._tables is None:
            self._build()
        assert self._tables is not None
        cells = []
        for table, (sorted_keys, places) in enumerate(self._tables):
            frames, keys = _asked(query, table)
            low = np.searchsorted(sorted_keys, keys, side="left")
            count = np.searchsorted(sorted_keys, keys, side="right") - low
            taken = np.minimum(count, _BUCKET)
            owner = np.repeat(np.arange(len(keys)), taken)
            step = np.arange(taken.sum()) - np.repeat(np.cumsum(taken) - taken, taken)
            hit = places[low[owner] + step * count[owner] // np.maximum(taken[owner], 1)]
            clip = np.searchsorted(self._starts, hit, side="right") - 1
            cells.append((clip << 32) + (hit - self._starts[clip] - frames[owner] + (1 << 31)))
        cell, votes = np.unique(np.concatenate(cells), return_counts=True)
        beside = np.zeros_like(votes)  # the true offset lies between two frames
        follows = np.flatnonzero(np.diff(cell) == 1)
        beside[follows] += votes[follows + 1]
        beside[follows + 1] += votes[follows]
        order = np.lexsort((cell, -(votes + beside)))[:_CANDIDATES]
        order = order[(votes + beside)[order] > 1]
        return [(int(c >> 32), int(c & 0xFFFFFFFF) - (1 << 31)) for c in cell[order]]

    def _build(self) -> None:
        lengths = np.array([len(one) for one in self._prints], np.int64)
        self._starts = np.concatenate([[0], np.cumsum(lengths)])
        kept = -(-np.maximum(0, lengths - _KEY_REACH_FRAMES) // _STORED_EVERY_FRAMES)  # frames of each clip
        within = np.arange(kept.sum()) - np.repeat(np.cumsum(kept) - kept, kept)
        places = np.repeat(self._starts[:-1], kept) + _STORED_EVERY_FRAMES * within
        signs_T = np.concatenate([one.signs_T for one in self._prints] or [np.zeros(0, np.uint32)])
        heard_T = np.concatenate([one.heard_T for one in self._prints] or [np.zeros(0, np.uint32)])
        self._tables = [_stored(signs_T, heard_T, places, table) for table in range(_TABLES)]


def _log_powers(samples: np.ndarray) -> np.ndarray:
    """Natural logarithm of the power in each band, above the floor [T, 33]."""
    window = np.hanning(WINDOW_SAMPLES).astype(np.float32)
    window /= np.sqrt((window**2).sum() * WINDOW_SAMPLES / 2)
    edges_hz = np.geomspace(*_BANDS_HZ, BITS + 2)
    edges = np.ceil(edges_hz * WINDOW_SAMPLES / RATE_HZ).astype(int)
    frames_TN = np.lib.stride_tricks.sliding_window_view(samples, WINDOW_SAMPLES)[::HOP_SAMPLES]
    rows = []
    for first in range(0, len(frames_TN), _FRAMES_AT_ONCE):
        spectrum = np.fft.rfft(frames_TN[first : first + _FRAMES_AT_ONCE] * window, axis=1)[:, : edges[-1]]
        rows.append(np.add.reduceat(np.abs(spectrum) ** 2, edges[:-1], axis=1))
    return np.log(np.concatenate(rows) + 10 ** (_FLOOR_DB / 10)).astype(np.float32)


def _packed(bits_TB: np.ndarray) -> np.ndarray:
    """Rows of 32 bits as uint32, band 0 the lowest bit."""
    return np.packbits(bits_TB, axis=1, bitorder="little").view("<u4")[:, 0].astype(np.uint32)


_ONES = np.array([number.bit_count() for number in range(1 << 16)], np.uint8)


def _ones(words_T: np.ndarray) -> np.ndarray:
    """How many bits of each uint32 are set (numpy 1 cannot count them)."""
    return _ONES[words_T & 0xFFFF] + _ONES[words_T >> 16]


# Which bands each table looks at, in its first frame and in its second; drawn once and the same for ever.
_LOOKED_AT = [
    np.stack([np.random.default_rng((table, half)).permutation(BITS)[: _KEY_BITS // 2] for half in range(2)])
    for table in range(_TABLES)
]


def _stored(signs_T: np.ndarray, heard_T: np.ndarray, places: np.ndarray, table: int) -> tuple[np.ndarray, np.ndarray]:
    """Words [M] in order, and their places among all frames [M], as an index keeps them; few say too little.

    A bit is set where a ripple is heard and rises: a flat band, of which no sign is to be had, is 0 on both sides.
    """
    keys, said = np.zeros(len(places), np.uint32), np.zeros(len(places), np.uint8)
    for bit, (half, band) in enumerate((h, b) for h in range(2) for b in _LOOKED_AT[table][h]):
        at = places + half * _KEY_REACH_FRAMES
        heard = (heard_T[at] >> np.uint32(band)) & np.uint32(1)
        keys |= ((signs_T[at] >> np.uint32(band)) & heard) << np.uint32(bit)
        said += heard.astype(np.uint8)
    keys, places = keys[said >= _KEY_LEAST], places[said >= _KEY_LEAST]
    order = np.argsort(keys, kind="stable")
    return keys[order], places[order]


def _asked(query: Fingerprint, table: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames [M] and words [M] that a query looks for: of each frame its word with all values of its weakest bits."""
    frames = np.arange(max(0, len(query) - _KEY_REACH_FRAMES))
    first, second = _LOOKED_AT[table]
    ripples = (query.ripples_TB[frames][:, first], query.ripples_TB[frames + _KEY_REACH_FRAMES][:, second])
    looked_TK = np.concatenate(ripples, axis=1).astype(np.float32)
    kept = (np.abs(looked_TK) > _SMALLEST).sum(axis=1) >= _KEY_LEAST
    frames, looked_TK = frames[kept], looked_TK[kept]
    place_K = np.uint32(1) << np.arange(_KEY_BITS, dtype=np.uint32)
    keys_T = ((looked_TK > _SMALLEST) * place_K).sum(axis=1).astype(np.uint32)
    weakest_TW = place_K[np.argsort(np.abs(looked_TK - _SMALLEST), axis=1, kind="stable")[:, :_WEAKEST]]
    flips_PW = (np.arange(1 << _WEAKEST)[:, None] >> np.arange(_WEAKEST)) & 1
    turned_TP = (weakest_TW[:, None, :] * flips_PW.astype(np.uint32)).sum(axis=2).astype(np.uint32)
    return np.repeat(frames, 1 << _WEAKEST), (keys_T[:, None] ^ turned_TP).ravel()
