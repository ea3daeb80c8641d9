"""The leakage guard: crops and codecs by sound, wording by text, and what cannot be judged."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile

from clapkit.building.leakage import find_leakage, shared_texts
from clapkit.data.clip import Clip
from clapkit.errors import DataError

RATE_HZ = 22_050


def sound(seed: int, seconds: float = 5.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    count = int(seconds * RATE_HZ)
    swell = np.interp(np.linspace(0, 1, count), np.linspace(0, 1, 12), rng.uniform(0.1, 1, 12))
    noise = np.convolve(rng.standard_normal(count), rng.standard_normal(16), mode="same")
    return (0.1 * swell * noise / np.abs(noise).max()).astype(np.float32)


def clip(name: str, samples: np.ndarray, *captions: str) -> Clip:
    return Clip(name, samples, rate_hz=RATE_HZ, captions=captions)


def test_a_crop_from_a_file_is_found_and_others_are_not(tmp_path):
    train = [clip(f"train{n}", sound(n)) for n in range(6)]
    path = tmp_path / "crop.ogg"
    soundfile.write(path, 0.3 * sound(4)[22_000 : 22_000 + 3 * RATE_HZ], RATE_HZ)
    test = [Clip("crop", str(path)), clip("new", sound(99))]
    seen = []
    found = find_leakage(train, test, workers=0, progress=lambda done, total: seen.append((done, total)))
    assert [(s.test, s.train) for s in found.sounds] == [("crop", "train4")] and found.heard == ("crop",)
    assert found.sounds[0].offset_s == pytest.approx(22_000 / RATE_HZ, abs=0.02)
    assert seen[-1] == (8, 8) and (found.train_clips, found.test_clips) == (6, 2)
    assert json.loads(json.dumps(found.to_json()))["heard"] == ["crop"]


def test_two_cuts_of_one_recording_share_a_part_and_are_no_copies():
    recording, rate_hz = sound(7, 9.0), RATE_HZ
    train = [clip("from 0 s", recording[: 6 * rate_hz]), clip("other", sound(8))]
    cuts = {"from 3 s": recording[3 * rate_hz :], "inside": recording[2 * rate_hz : 5 * rate_hz], "all": recording}
    found = find_leakage(train, [clip(name, samples) for name, samples in cuts.items()], workers=0)
    assert found.heard == ("inside", "all") and found.heard_in_part == ("from 3 s",)
    ((one,), told) = found.overlaps, found.to_json()
    assert (one.test, one.train) == ("from 3 s", "from 0 s") and one.offset_s == pytest.approx(3.0, abs=0.02)
    assert told["heard_in_part"] == ["from 3 s"] and json.dumps(told)


def test_a_clip_is_its_range_of_the_file(tmp_path):
    path = tmp_path / "long.wav"
    soundfile.write(path, np.concatenate([sound(1), sound(2)]), RATE_HZ)
    first = Clip("first", str(path), start_s=0.0, duration_s=5.0)
    second = Clip("second", str(path), start_s=5.0, duration_s=5.0)
    assert find_leakage([first], [second], workers=0).sounds == ()
    assert find_leakage([first], [clip("again", sound(1))], workers=0).heard == ("again",)


def test_silent_and_broken_clips_are_named_and_cost_nothing_else(tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"RIFF and then nothing")
    train = [clip("silent", np.zeros(RATE_HZ, np.float32)), Clip("broken", str(tmp_path / "broken.wav"))]
    found = find_leakage([*train, clip("one", sound(1))], [clip("two", sound(1))], workers=0)
    assert found.unjudged == ("silent",)
    assert [(f.index, "broken.wav" in f.source) for f in found.failures] == [(1, True)]
    assert found.heard == ("two",)


def test_equal_words_are_found_whatever_their_case_and_punctuation():
    nothing = np.zeros(0, np.float32)
    train = [clip("a", nothing, "A dog barks, twice!", "rain"), clip("b", nothing, "a dog barks twice")]
    test = [clip("x", nothing, "a DOG  barks twice.", "snow"), clip("y", nothing, "a dog barks")]
    (found,) = shared_texts(train, test)
    assert (found.text, found.test, found.train) == ("a DOG  barks twice.", ("x",), ("a", "b"))


def test_labels_are_no_leak():
    train, test = Clip("a", b"", label="dog"), Clip("b", b"", label="dog")
    assert shared_texts([train], [test]) == ()


def test_what_cannot_be_done_is_refused():
    one = clip("one", sound(1))
    with pytest.raises(DataError, match="0 training clips"):
        find_leakage([], [one], workers=0)
    with pytest.raises(DataError, match=r"2 test clips[\s\S]*one"):
        find_leakage([one], [one, one], workers=0)
    with pytest.raises(DataError, match="clip raw is an array of samples without a rate"):
        find_leakage([one], [Clip("raw", sound(2))], workers=0)


def test_real_clips_through_opus_and_a_cut(shared_data, tmp_path):
    """Twelve clips of ESC-50; all 2,000 are in proofs/leakage_guard.py."""
    paths = sorted((shared_data / "esc50" / "audio").glob("*.ogg"))[100:112]
    train = [Clip(path.stem, str(path)) for path in paths]
    test = []
    for path in paths:
        samples, rate_hz = soundfile.read(path, dtype="float32")
        crop = tmp_path / f"{path.stem}.mp3"
        soundfile.write(crop, samples[rate_hz : 4 * rate_hz], rate_hz)
        test.append(Clip(f"{path.stem} cut", str(crop)))
    found = find_leakage(train, test, workers=0)
    recordings = [name.split("-")[1] for name in (s.train for s in found.sounds)]
    assert recordings == [s.test.split("-")[1] for s in found.sounds]
    judged = {one.id for one in test} - set(found.unjudged)
    assert len(judged) >= 8 and set(found.heard) == judged
