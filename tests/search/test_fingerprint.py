"""Fingerprints: against a slow reading of the definition, through codecs and cuts, and the index against all pairs."""

from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
import pytest
import soundfile

from clapkit.audio.decode import decode
from clapkit.errors import DataError, SpecError
from clapkit.search import fingerprint as module
from clapkit.search.fingerprint import (
    HOP_SAMPLES,
    RATE_HZ,
    WINDOW_SAMPLES,
    Fingerprint,
    FingerprintIndex,
    agreement,
    fingerprint,
)


def scene(rng: np.random.Generator, seconds: float = 5.0) -> np.ndarray:
    """Noise whose loudness and colour change, as sound effects do."""
    count = int(seconds * RATE_HZ)
    noise = rng.standard_normal(count)
    coloured = np.convolve(noise, rng.standard_normal(32) * 0.3, mode="same")
    times = np.linspace(0, 1, count)
    swell = np.interp(times, np.linspace(0, 1, 12), rng.uniform(0.1, 1, 12))
    return (0.1 * swell * coloured / np.abs(coloured).max()).astype(np.float32)


@pytest.fixture(scope="module")
def scenes() -> list[np.ndarray]:
    rng = np.random.default_rng(4)
    return [scene(rng) for _ in range(12)]


@pytest.fixture(scope="module")
def index(scenes) -> FingerprintIndex:
    found = FingerprintIndex()
    found.add([str(n) for n in range(len(scenes))], [fingerprint(s, rate_hz=RATE_HZ) for s in scenes])
    return found


def slow_bits(samples: np.ndarray) -> tuple[list[int], list[int]]:
    """The definition, frame by frame and band by band."""
    window = np.hanning(WINDOW_SAMPLES)
    window /= np.sqrt((window**2).sum() * WINDOW_SAMPLES / 2)
    edges = np.geomspace(200, 6000, 34)
    logs = []
    for first in range(0, len(samples) - WINDOW_SAMPLES + 1, HOP_SAMPLES):
        spectrum = np.abs(np.fft.rfft(samples[first : first + WINDOW_SAMPLES].astype(float) * window)) ** 2
        hz = np.arange(len(spectrum)) * RATE_HZ / WINDOW_SAMPLES
        powers = [spectrum[(hz >= low) & (hz < high)].sum() for low, high in pairwise(edges)]
        logs.append(np.log(np.array(powers) + 1e-10))
    signs, heard = [], []
    for t in range(8, len(logs)):
        sign = said = 0
        for b in range(32):
            ripple = (logs[t][b] - logs[t][b + 1]) - (logs[t - 8][b] - logs[t - 8][b + 1])
            sign |= int(ripple > 0) << b
            said |= int(abs(ripple) > 0.2) << b
        signs.append(sign)
        heard.append(said)
    return signs, heard


def test_bits_are_those_of_the_definition(rng):
    samples = scene(rng, 0.6)
    found = fingerprint(samples, rate_hz=RATE_HZ)
    signs, heard = slow_bits(samples)
    assert len(found) == len(signs) and found.signs_T.dtype == np.uint32
    # A ripple at the very edge of a decision may be rounded to the other side of it: float32 against float64.
    unlike = sum((a ^ int(b)).bit_count() for a, b in zip(signs, found.signs_T, strict=True))
    assert unlike <= 3
    assert sum((a ^ int(b)).bit_count() for a, b in zip(heard, found.heard_T, strict=True)) <= 3


def test_agreement_equals_counting_bit_by_bit(rng):
    def random_print(frames: int) -> Fingerprint:
        words = rng.integers(0, 1 << 32, (2, frames), dtype=np.uint32)
        return Fingerprint(words[0], words[1], np.zeros((0, 32), np.float16))

    query, other = random_print(150), random_print(190)
    for offset in (-60, 0, 17, 100):
        alike = unlike = said = heard = 0
        for t in range(150):
            if 0 <= t + offset < 190:
                for b in range(32):
                    mine, theirs = int(query.heard_T[t]) >> b & 1, int(other.heard_T[t + offset]) >> b & 1
                    said, heard = said + mine, heard + theirs
                    if mine and theirs:
                        same = (int(query.signs_T[t]) ^ int(other.signs_T[t + offset])) >> b & 1 == 0
                        alike, unlike = alike + same, unlike + (not same)
        expected = (alike - unlike) / np.sqrt(said * heard)
        assert agreement(query, other, offset_frames=offset) == pytest.approx(expected, abs=1e-12)
    assert agreement(query, other, offset_frames=149) == 0.0  # too short an overlap to judge
    assert agreement(query, query, offset_frames=0) == 1.0


@pytest.mark.parametrize("gain_db", [-24.0, 0.0, 12.0])
def test_gain_offset_and_noise_hardly_matter(scenes, index, gain_db):
    rng = np.random.default_rng(6)
    for n in (0, 5):
        first = 12_345
        crop = scenes[n][first : first + 3 * RATE_HZ]
        noisy = crop + 0.05 * np.abs(crop).mean() * rng.standard_normal(len(crop))
        hits = index.search(fingerprint(10 ** (gain_db / 20) * noisy, rate_hz=RATE_HZ))
        assert [hit.id for hit in hits] == [str(n)]
        assert hits[0].agreement > 0.6
        assert abs(hits[0].offset_s - first / RATE_HZ) <= HOP_SAMPLES / RATE_HZ


@pytest.mark.parametrize("container, subtype", [("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")])
def test_found_through_a_codec_at_another_rate(scenes, index, container, subtype):
    try:
        buffer = io.BytesIO()
        soundfile.write(buffer, scenes[3][8000:56_000], RATE_HZ, format=container, subtype=subtype)
    except soundfile.LibsndfileError as error:
        pytest.skip(f"libsndfile here writes no {container}: {error}")
    sound = decode(buffer.getvalue(), rate_hz=22_050)
    hits = index.search(fingerprint(sound.samples, rate_hz=22_050))
    assert [hit.id for hit in hits] == ["3"]


def test_a_clip_that_begins_before_the_stored_one_has_a_negative_offset(scenes, index):
    early = np.concatenate([scene(np.random.default_rng(9), 1.0), scenes[7][: 3 * RATE_HZ]])
    (hit,) = index.search(fingerprint(early, rate_hz=RATE_HZ))
    assert hit.id == "7" and hit.offset_s == pytest.approx(-1.0, abs=HOP_SAMPLES / RATE_HZ)


def test_whole_is_what_lies_in_the_other(scenes, index):
    after = scene(np.random.default_rng(10), 3.0)
    for samples, whole in (
        (scenes[7], True),
        (scenes[7][RATE_HZ : 4 * RATE_HZ], True),  # a cut of the stored one
        (np.concatenate([scenes[7], after]), True),  # holds it
        (np.concatenate([scenes[7][2 * RATE_HZ :], after]), False),  # each has what the other lacks
        (np.concatenate([scenes[7][2 * RATE_HZ :], 0 * after]), True),  # silence says nothing
    ):
        (hit,) = index.search(fingerprint(samples, rate_hz=RATE_HZ))
        assert (hit.id, hit.whole) == ("7", whole)


def test_of_what_repeats_itself_the_place_where_it_is_whole_is_found():
    rng = np.random.default_rng(12)
    loop = scene(rng, 2.0)
    noise = 0.05 * np.abs(loop).mean() * rng.standard_normal(len(loop))
    stored = np.concatenate([loop, loop, loop + noise])
    found = FingerprintIndex()
    found.add(["loop"], [fingerprint(stored, rate_hz=RATE_HZ)])
    (hit,) = found.search(fingerprint(stored[2 * len(loop) :], rate_hz=RATE_HZ))
    assert hit.whole
    # All three against themselves shifted by one: two of three agree to the bit, and yet it lies at its beginning.
    (hit,) = found.search(fingerprint(np.concatenate([loop, loop + noise, loop]), rate_hz=RATE_HZ))
    assert hit.whole and hit.offset_s == 0


def test_the_index_finds_what_comparing_everything_finds(scenes, index):
    prints = [fingerprint(s, rate_hz=RATE_HZ) for s in scenes]
    for n in (1, 8):
        query = fingerprint(scenes[n][5000:60_000], rate_hz=RATE_HZ)
        best = {
            k: max(agreement(query, one, offset_frames=o) for o in range(-len(query), len(one)))
            for k, one in enumerate(prints)
        }
        slow = {str(k): score for k, score in best.items() if score >= module.THRESHOLD}
        assert {hit.id: hit.agreement for hit in index.search(query)} == slow
        assert list(slow) == [str(n)]


def test_other_noise_of_the_same_colour_is_no_match():
    rng = np.random.default_rng(11)
    colour = rng.standard_normal(64)
    rain = [np.convolve(0.02 * rng.standard_normal(5 * RATE_HZ), colour, mode="same") for _ in range(20)]
    found = FingerprintIndex()
    found.add([str(n) for n in range(10)], [fingerprint(x, rate_hz=RATE_HZ) for x in rain[:10]])
    assert not any(found.search(fingerprint(x, rate_hz=RATE_HZ)) for x in rain[10:])


def test_silence_and_snippets_cannot_be_judged(index):
    for samples in (np.zeros(5 * RATE_HZ), np.zeros(10), np.zeros(0)):
        nothing = fingerprint(samples, rate_hz=RATE_HZ)
        assert not nothing.judgeable and nothing.heard_bits == 0
        assert index.search(nothing) == []
    assert FingerprintIndex().search(fingerprint(scene(np.random.default_rng(0)), rate_hz=RATE_HZ)) == []


def test_an_index_that_grew_finds_both_old_and_new(scenes):
    grown = FingerprintIndex()
    grown.add(["a"], [fingerprint(scenes[0], rate_hz=RATE_HZ)])
    query = fingerprint(scenes[1], rate_hz=RATE_HZ)
    assert grown.search(query) == []
    grown.add(["b"], [query])
    assert [hit.id for hit in grown.search(query)] == ["b"] and len(grown) == 2


def test_what_cannot_be_done_is_refused(index, scenes):
    with pytest.raises(DataError, match=r"\(2, 100\)"):
        fingerprint(np.zeros((2, 100)), rate_hz=RATE_HZ)
    with pytest.raises(DataError, match="finite"):
        fingerprint(np.array([0.0, np.nan]), rate_hz=RATE_HZ)
    with pytest.raises(DataError, match="2 ids for 1"):
        index.add(["a", "b"], [fingerprint(scenes[0], rate_hz=RATE_HZ)])
    with pytest.raises(SpecError, match=r"threshold is 0"):
        index.search(fingerprint(scenes[0], rate_hz=RATE_HZ), threshold=0)
