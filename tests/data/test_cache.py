"""The cache of decoded sound: what it holds, when it is made anew, and what an interruption leaves."""

from __future__ import annotations

import os

import numpy as np
import pytest
import soundfile

from clapkit.audio.decode import decode
from clapkit.data import cache
from clapkit.data.cache import cache_audio
from clapkit.data.clip import Clip
from clapkit.errors import DataError
from clapkit.files import cache_folder

RATE_HZ = 8000


def write(path, seconds: float = 0.2, *, seed: int = 0, rate_hz: int = 16000) -> str:
    samples = 0.3 * np.random.default_rng(seed).standard_normal(round(seconds * rate_hz))
    soundfile.write(path, samples, rate_hz)
    return str(path)


def cached(clips, **options):
    return cache_audio(clips, rate_hz=RATE_HZ, workers=0, **options)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLAPKIT_CACHE", str(tmp_path / "cache"))


def decoded_requests(monkeypatch) -> list:
    """Everything that is decoded from now on."""
    asked = []
    real = cache.DecodePool.map

    def counting(pool, requests):
        requests = list(requests)
        asked.extend(requests)
        return real(pool, requests)

    monkeypatch.setattr(cache.DecodePool, "map", counting)
    return asked


def test_holds_what_decoding_gives_to_16_bits(tmp_path):
    path = write(tmp_path / "a.wav", 1.0)
    whole, part = Clip("whole", path), Clip("part", path, start_s=0.25, duration_s=0.5)
    array = np.linspace(-1.5, 1.5, 50, dtype=np.float32)
    with open(path, "rb") as file:
        held = Clip("held", file.read())
    audio = cached([whole, part, held, Clip("array", array)])
    assert [c.id for c in audio.clips] == ["whole", "part", "held", "array"] and len(audio) == 4
    for position, clip in enumerate([whole, part, held]):
        expected = decode(clip.audio, rate_hz=RATE_HZ, start_s=clip.start_s, duration_s=clip.duration_s).samples
        assert audio.length_samples(position) == len(expected)
        np.testing.assert_allclose(audio.samples(position), np.clip(expected, -1, 1), atol=0.5001 / 32767)
    np.testing.assert_allclose(audio.samples(3), np.clip(array, -1, 1), atol=0.5001 / 32767)
    np.testing.assert_array_equal(audio.samples(0, first=10, count=5), audio.samples(0)[10:15])
    assert audio.samples_int16(0).dtype == np.int16 and not audio.samples_int16(0).flags.writeable


def test_the_second_time_nothing_is_decoded(tmp_path, monkeypatch):
    clips = [Clip(str(i), write(tmp_path / f"{i}.wav", seed=i)) for i in range(3)]
    first = cached(clips)
    asked = decoded_requests(monkeypatch)
    again = cached(clips)
    assert asked == []
    for i in range(3):
        np.testing.assert_array_equal(first.samples(i), again.samples(i))


def test_a_changed_file_gets_its_new_sound(tmp_path):
    path = tmp_path / "a.wav"
    before = cached([Clip("a", write(path, seed=1))]).samples(0)
    write(path, seed=2)
    os.utime(path, ns=(1, 1))  # systems with a coarse clock give both versions the same time
    after = cached([Clip("a", str(path))]).samples(0)
    assert np.abs(before - after).max() > 0.1
    np.testing.assert_allclose(after, decode(path, rate_hz=RATE_HZ).samples, atol=1e-4)


def test_an_interrupted_build_goes_on_behind_the_last_whole_shard(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_SHARD_CLIPS", 2)
    clips = [Clip(str(i), write(tmp_path / f"{i}.wav", seed=i)) for i in range(6)]

    def stop_in_the_second_shard(done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(clips, progress=stop_in_the_second_shard)
    left = [p for p in (cache_folder() / "audio").rglob("*") if p.is_file()]
    assert sorted(p.name for p in left) == ["audio.npy", "index.json"], "one whole shard and no half one"
    asked = decoded_requests(monkeypatch)
    audio = cached(clips)
    assert [r.source for r in asked] == [c.audio for c in clips[2:]]
    for i, clip in enumerate(clips):
        np.testing.assert_allclose(audio.samples(i), decode(clip.audio, rate_hz=RATE_HZ).samples, atol=1e-4)


def test_failures_are_listed_by_position_and_cost_themselves_only(tmp_path):
    bad = tmp_path / "bad.wav"
    bad.write_text("this is no sound")
    clips = [Clip("a", write(tmp_path / "a.wav")), Clip("b", str(bad)), Clip("c", str(tmp_path / "gone.wav"))]
    audio = cached([*clips, Clip("d", clips[0].audio)])
    assert [c.id for c in audio.clips] == ["a", "d"]
    assert [(f.index, f.source) for f in audio.failures] == [(1, "b"), (2, "c")]
    assert "no such file" in audio.failures[1].reason
    np.testing.assert_array_equal(audio.samples(0), audio.samples(1))
    with pytest.raises(DataError, match="none of the 2 clips could be decoded") as caught:
        cached(clips[1:])
    assert len(caught.value.problems) == 2


def test_a_clip_that_failed_is_tried_again(tmp_path, monkeypatch):
    """Rights given, a machine less busy: nothing about the file has changed."""
    clips = [Clip(str(i), write(tmp_path / f"{i}.wav", seed=i)) for i in range(2)]
    real = cache.DecodePool.map

    def failing(pool, requests):
        for i, result in real(pool, requests):
            yield i, cache.AudioError("1.wav", "no permission to read it") if i == 1 else result

    with monkeypatch.context() as patch:
        patch.setattr(cache.DecodePool, "map", failing)
        assert [f.reason for f in cached(clips).failures] == ["no permission to read it"]
    assert len(cached(clips)) == 2


def test_long_clips_are_cut_and_noted(tmp_path):
    long, exact = write(tmp_path / "long.wav", 1.0), write(tmp_path / "exact.wav", 0.5)
    audio = cached([Clip("long", long), Clip("exact", exact), Clip("part", long, duration_s=0.5)], max_clip_s=0.5)
    assert [audio.length_samples(i) for i in range(3)] == [4000, 4000, 4000]
    assert audio.notes == ("long: cut after 0.5 s",)


def test_progress_ends_at_the_end(tmp_path):
    told = []
    clips = [Clip(str(i), write(tmp_path / f"{i}.wav")) for i in range(3)]
    cached(clips, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (3, 3) and all(total == 3 for _, total in told)
    assert told == sorted(told)


def test_lies_where_the_variable_says(tmp_path, monkeypatch):
    clip = Clip("a", write(tmp_path / "a.wav"))
    monkeypatch.setenv("CLAPKIT_CACHE", str(tmp_path / "one"))
    cached([clip])
    assert (tmp_path / "one" / "audio").is_dir() and not (tmp_path / "two").exists()
    cached([clip], folder=tmp_path / "two")
    assert (tmp_path / "two" / "audio").is_dir()


def test_no_clips_are_no_error_here():
    assert len(cached([])) == 0
