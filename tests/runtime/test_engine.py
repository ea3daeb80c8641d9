"""The engine against a slow reference that decodes a whole sound, windows it, and averages."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch

from clapkit import native
from clapkit.audio.decode import decode
from clapkit.audio.pool import DecodePool
from clapkit.audio.windows import plan_windows
from clapkit.errors import SpecError
from clapkit.runtime import cutting, engine
from clapkit.runtime.engine import AudioEngine, Embedded, Failed
from clapkit.runtime.torch_program import TorchProgram

RATE_HZ, WINDOW, HOP = 8000, 4000, 2000


@pytest.fixture(scope="module")
def model(tiny_run):
    return native.load(tiny_run.path).model


def music(seconds: float, *, rate_hz: int = RATE_HZ, seed: int = 0) -> np.ndarray:
    """Noise whose loudness and colour change, so that no window is like another."""
    count = round(seconds * rate_hz)
    steps = np.arange(count) / rate_hz
    noise = np.random.default_rng(seed).standard_normal(count)
    return (0.1 * noise * (1 + np.sin(steps)) + 0.3 * np.sin(2 * np.pi * (300 + 40 * steps) * steps)).astype(np.float32)


def write(path, samples, rate_hz: int = RATE_HZ) -> str:
    soundfile.write(path, samples, rate_hz, subtype="FLOAT")
    return str(path)


def slowly(model, samples: np.ndarray, *, together: int = 1) -> np.ndarray:
    """All in memory, one window (or `together`) at a time, averaged by weight."""
    plan = plan_windows(len(samples), WINDOW, HOP)
    total = np.zeros(model.dimension)
    with torch.inference_mode():
        for first in range(0, len(plan), together):
            some = plan[first : first + together]
            parts = np.stack([samples[w.start : w.start + w.length] for w in some])
            vectors_WD = model.encode_audio(torch.from_numpy(parts)).double().numpy()
            total += np.array([w.weight for w in some]) @ vectors_WD
    return (total / np.linalg.norm(total)).astype(np.float32)


def results(model, sources, **options) -> list[Embedded | Failed]:
    found = list(AudioEngine(TorchProgram(model)).embed(sources, **options))
    assert sorted(r.index for r in found) == list(range(len(sources))), "one result for each source"
    return sorted(found, key=lambda r: r.index)


@pytest.mark.parametrize("samples", [1, 100, 3999, 4000, 4001, 6000, 9999, 30000])
def test_any_length_equals_the_reference(model, samples):
    sound = music(4.0)[:samples]
    (found,) = results(model, [(sound, RATE_HZ)])
    np.testing.assert_allclose(found.vector_D, slowly(model, sound), atol=1e-5)
    plan = plan_windows(samples, WINDOW, HOP)
    assert found.starts_s == tuple(w.start / RATE_HZ for w in plan) and found.windows_WD.shape == (len(plan), 16)
    assert found.duration_s == samples / RATE_HZ and found.window_s == min(samples, WINDOW) / RATE_HZ


@pytest.mark.parametrize("seconds", [120.0, 240.0, 300.0])
def test_long_sound_equals_the_reference(model, tmp_path, seconds):
    """120 s and 240 s end exactly where a stretch does: the end of the file must not become an error."""
    sound = music(seconds)
    (found,) = results(model, [write(tmp_path / "long.wav", sound)])
    np.testing.assert_allclose(found.vector_D, slowly(model, sound, together=64), atol=1e-5)
    assert found.duration_s == seconds


@pytest.mark.parametrize(
    ("samples", "workers"), [(15999, 0), (16000, 0), (16001, 0), (32000, 0), (32001, 0), (32000, 1)]
)
def test_stretches_end_anywhere(model, tmp_path, monkeypatch, samples, workers):
    monkeypatch.setattr(engine, "_STRETCH_S", 2.0)
    sound = music(5.0)[:samples]
    (found,) = results(model, [write(tmp_path / "long.wav", sound)], workers=workers)
    np.testing.assert_allclose(found.vector_D, slowly(model, sound), atol=1e-5)
    assert found.duration_s == samples / RATE_HZ and found.notes == ()


@pytest.mark.parametrize("workers", [0, 2])
def test_files_of_other_rates_interleave_in_stretches(model, tmp_path, monkeypatch, workers):
    monkeypatch.setattr(engine, "_STRETCH_S", 1.7)
    sources = [
        write(tmp_path / f"{i}.wav", music(seconds, rate_hz=rate_hz, seed=i), rate_hz)
        for i, (seconds, rate_hz) in enumerate([(5.0, 44100), (0.3, 8000), (3.4, 8000), (9.0, 16000)])
    ]
    with open(sources[0], "rb") as file:
        sources.append(file.read())
    sources.append((music(4.0), RATE_HZ))
    for found, source in zip(results(model, sources, workers=workers), sources, strict=True):
        whole = decode(source, rate_hz=RATE_HZ).samples
        np.testing.assert_allclose(found.vector_D, slowly(model, whole), atol=1e-5)
        assert found.duration_s == len(whole) / RATE_HZ


@pytest.mark.parametrize(("share", "fails"), [(0.83, False), (0.55, False), (0.45, True), (0.3, True), (0.1, True)])
def test_a_file_that_breaks_off_is_judged_as_a_whole(model, tmp_path, monkeypatch, share, fails):
    """The header promises 10 s. In the stretch where it breaks off, less than half may be there, or almost all."""
    monkeypatch.setattr(engine, "_STRETCH_S", 2.0)
    path = tmp_path / "cut.wav"
    soundfile.write(path, music(10.0), RATE_HZ, subtype="PCM_16")
    with path.open("r+b") as file:
        file.truncate(44 + 2 * round(share * 80000))
    (found,) = results(model, [str(path)], workers=0)
    if fails:
        assert found.error.reason.startswith("truncated") and found.error.source == str(path)
        return
    whole = decode(path, rate_hz=RATE_HZ).samples
    np.testing.assert_allclose(found.vector_D, slowly(model, whole), atol=1e-5)
    assert found.duration_s == pytest.approx(10 * share, abs=0.01)
    assert any(note.startswith("truncated") for note in found.notes)


def test_memory_is_that_of_a_stretch_and_a_window(model, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "_STRETCH_S", 2.0)
    held, asked = [], []
    real_feed, real_request = cutting.Cut.feed, engine._Ask.request

    def feed(file, samples, is_last):
        yield from real_feed(file, samples, is_last)
        held.append(len(file._tail))

    def request(ask, source, rate_hz):
        made = real_request(ask, source, rate_hz)
        asked.append(made.duration_s)
        return made

    monkeypatch.setattr(cutting.Cut, "feed", feed)
    monkeypatch.setattr(engine._Ask, "request", request)
    results(model, [write(tmp_path / "long.wav", music(60.0))])
    assert len(held) == 30 and max(held) <= WINDOW + HOP
    assert max(asked) <= 2.0 + 1 / RATE_HZ


def test_a_failure_in_the_middle_costs_that_file_only(model, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "_STRETCH_S", 1.0)
    good, bad = (write(tmp_path / f"{name}.wav", music(5.0)) for name in ("good", "bad"))
    real = DecodePool.map

    def dying(pool, requests):
        """The decoder of one file dies in its third stretch."""
        asked = []

        def noted():
            for request in requests:
                asked.append(request)
                yield request

        for i, reply in real(pool, noted()):
            died = asked[i].source == bad and asked[i].start_s == 2.0
            yield i, engine.AudioError(bad, "the decoder process died") if died else reply

    monkeypatch.setattr(DecodePool, "map", dying)
    first, second, third = results(model, [good, bad, good], workers=0)
    assert isinstance(second, Failed) and second.error.reason == "the decoder process died"
    np.testing.assert_allclose(first.vector_D, third.vector_D, atol=1e-6)
    np.testing.assert_allclose(first.vector_D, slowly(model, music(5.0)), atol=1e-5)


def test_what_is_done_is_counted(model):
    told = []
    sources = [(music(0.5), RATE_HZ), (np.zeros(0, np.float32), RATE_HZ), (music(2.0), RATE_HZ)]
    results(model, sources, on_done=told.append)
    assert told == sorted(told) and told[-1] == 3
    told.clear()
    assert results(model, [], on_done=told.append) == [] and told == [0]


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_batch_size_changes_nothing(model, batch_size):
    sources = [(music(seconds, seed=i), RATE_HZ) for i, seconds in enumerate([0.2, 3.0, 1.1])]
    for found in AudioEngine(TorchProgram(model), batch_size=batch_size).embed(sources):
        np.testing.assert_allclose(found.vector_D, slowly(model, sources[found.index][0]), atol=1e-5)


def test_opposite_windows_do_not_make_a_vector_of_nothing(model):
    file = cutting.Cut(0, WINDOW, HOP)
    file.total = 2 * WINDOW
    east = np.eye(16, dtype=np.float32)[0]
    file.vectors = [east, 0 * east, -east]
    found = AudioEngine(TorchProgram(model))._result(file)
    np.testing.assert_array_equal(found.vector_D, east)


def test_bf16_is_close_to_full_precision(model):
    sources = [(music(1.0), RATE_HZ)]
    (full,) = AudioEngine(TorchProgram(model)).embed(sources)
    (half,) = AudioEngine(TorchProgram(model, precision="bf16")).embed(sources)
    assert 0.99 < full.vector_D @ half.vector_D < 1.0 + 1e-6


def frames_slowly(model, samples):
    """[T, d] of one window of sound, and the middle of each frame."""
    with torch.inference_mode():
        out = model.audio(model.frontend(torch.from_numpy(samples)[None]))
        frames = torch.nn.functional.normalize(model.audio_head(out.frames_BTD[0]), dim=-1).numpy()
    return frames, (np.arange(len(frames)) + 0.5) / model.audio.frame_rate_hz


def test_frames_of_one_window_are_those_of_the_tower(model):
    sound = music(WINDOW / RATE_HZ)
    (found,) = AudioEngine(TorchProgram(model)).frames([(sound, RATE_HZ)])
    frames, times_s = frames_slowly(model, sound)
    np.testing.assert_allclose(found.frames_TD, frames, atol=1e-5)
    np.testing.assert_allclose(found.times_s, times_s)
    assert found.duration_s == WINDOW / RATE_HZ


def test_frames_of_long_sound_come_from_the_window_that_hears_them_best(model):
    """Each instant has one frame, of the window whose middle is nearest; none is missing at the seams."""
    sound = music(2.7 * WINDOW / RATE_HZ)
    (found,) = AudioEngine(TorchProgram(model), batch_size=2).frames([(sound, RATE_HZ)])
    step_s = 1 / model.audio.frame_rate_hz
    gaps = np.diff(found.times_s)
    assert gaps.min() > 0 and gaps.max() < 2 * step_s
    assert found.times_s[0] < step_s and len(sound) / RATE_HZ - found.times_s[-1] < 1.5 * step_s
    plan = plan_windows(len(sound), WINDOW, HOP)
    middles_s = np.array([w.start + w.length / 2 for w in plan]) / RATE_HZ
    for time_s, frame in zip(found.times_s, found.frames_TD, strict=True):
        window = plan[int(np.abs(middles_s - time_s).argmin())]
        frames, times_s = frames_slowly(model, sound[window.start : window.start + window.length])
        place = int(np.abs(times_s + window.start / RATE_HZ - time_s).argmin())
        np.testing.assert_allclose(frame, frames[place], atol=1e-5)


def test_frames_of_a_bad_source_say_why(model):
    (found,) = AudioEngine(TorchProgram(model)).frames([(np.zeros(0, np.float32), RATE_HZ)])
    assert isinstance(found, Failed)


# ---- leading silence -------------------------------------------------------------------------------------------------


def led(samples: np.ndarray, silence_s: float) -> np.ndarray:
    """Silence of the kind that a 16-bit file holds, then the sound."""
    quiet = np.random.default_rng(1).choice([0.0, 2.0**-15, -(2.0**-15)], round(silence_s * RATE_HZ))
    return np.concatenate([quiet, samples]).astype(np.float32)


@pytest.mark.parametrize("stretch_s", [0.4, 3.0, 120.0])
@pytest.mark.parametrize("silence_s", [0.01, 1.2, 9.7])
def test_silence_before_a_long_sound_changes_nothing_but_the_times(model, silence_s, stretch_s, monkeypatch):
    monkeypatch.setattr(engine, "_STRETCH_S", stretch_s)
    sound = music(7.3)
    sound[0] = 0.5
    plain, shifted = results(model, [(sound, RATE_HZ), (led(sound, silence_s), RATE_HZ)])
    np.testing.assert_allclose(shifted.windows_WD, plain.windows_WD, atol=1e-5)
    np.testing.assert_allclose(shifted.vector_D, plain.vector_D, atol=1e-5)
    offset_s = round(silence_s * RATE_HZ) / RATE_HZ
    np.testing.assert_allclose(np.array(shifted.starts_s) - plain.starts_s, offset_s, atol=1e-9)
    assert shifted.duration_s == pytest.approx(plain.duration_s + offset_s)


def test_a_short_sound_is_heard_with_its_silence(model):
    sound = led(music(0.2), 0.2)
    assert len(sound) < WINDOW
    (found,) = results(model, [(sound, RATE_HZ)])
    np.testing.assert_allclose(found.vector_D, slowly(model, sound), atol=1e-5)
    assert found.starts_s == (0.0,)


@pytest.mark.parametrize("stretch_s", [0.4, 120.0])
def test_of_nothing_but_silence_one_window_is_heard(model, stretch_s, monkeypatch):
    monkeypatch.setattr(engine, "_STRETCH_S", stretch_s)
    (found,) = results(model, [(np.zeros(9 * RATE_HZ, np.float32), RATE_HZ)])
    assert len(found.windows_WD) == 1 and found.duration_s == 9.0
    assert found.starts_s[0] + found.window_s == pytest.approx(9.0)


def test_frames_cover_the_silence_too(model):
    sound = led(music(4.0), 2.0)
    (found,) = AudioEngine(TorchProgram(model)).frames([(sound, RATE_HZ)])
    assert found.times_s[0] < 0.5 and found.duration_s == pytest.approx(6.0)


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "8"])
def test_a_batch_size_that_is_none_is_refused(model, wrong):
    with pytest.raises(SpecError, match="batch_size is a number of windows, at least 1, not"):
        AudioEngine(TorchProgram(model), batch_size=wrong)
