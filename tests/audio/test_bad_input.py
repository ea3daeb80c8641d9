from __future__ import annotations

import io
import os
import struct
import sys
import tracemalloc

import numpy as np
import pytest
import soundfile

from clapkit.audio.decode import decode, iter_windows, probe
from clapkit.errors import AudioError

RATE_HZ = 44100


@pytest.fixture
def refused():
    """`refused(source)` is the reason for which a source is an AudioError; the reason is one line."""

    def reason(source, **arguments) -> str:
        with pytest.raises(AudioError) as raised:
            decode(source, **arguments)
        assert raised.value.reason and "\n" not in raised.value.reason
        return raised.value.reason

    return reason


@pytest.fixture(scope="module")
def tone(chirp):
    return chirp(RATE_HZ, 4.0)


def wav_header(
    frames_bytes: int, *, riff_bytes: int = 36, channels: int = 1, bits: int = 16, rate_hz: int = 8000
) -> bytes:
    step = channels * bits // 8
    form = struct.pack("<HHIIHH", 1, channels, rate_hz, rate_hz * step % 2**32, step, bits)
    return (
        b"RIFF"
        + struct.pack("<I", riff_bytes)
        + b"WAVEfmt \x10\0\0\0"
        + form
        + b"data"
        + struct.pack("<I", frames_bytes)
    )


# --- files that are not there, or are no files


def test_missing_directory_empty_and_broken_link(refused, tmp_path):
    assert refused(tmp_path / "nowhere.wav") == "no such file"
    assert "directory" in refused(tmp_path)
    (tmp_path / "empty.wav").touch()
    assert refused(tmp_path / "empty.wav") == "empty file (0 bytes)"
    assert refused(b"") == refused(io.BytesIO()) == "empty (0 bytes)"
    try:
        (tmp_path / "link.wav").symlink_to(tmp_path / "gone.wav")
    except OSError:
        pytest.skip("this system lets nobody make links")
    assert "broken link" in refused(tmp_path / "link.wav")


def test_the_error_names_the_source(tmp_path):
    path = tmp_path / "音 .wav"
    with pytest.raises(AudioError) as raised:
        decode(path)
    assert raised.value.source == str(path) and str(path) in str(raised.value)


@pytest.mark.skipif(
    sys.platform == "win32" or getattr(os, "geteuid", lambda: 1)() == 0, reason="root may read everything"
)
def test_no_permission(refused, tmp_path):
    path = tmp_path / "closed.wav"
    soundfile.write(path, np.zeros(100), 8000)
    path.chmod(0)
    assert refused(path) == "no permission to read it"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_and_a_device_do_not_hang(refused, tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    assert "not a regular file" in refused(tmp_path / "pipe.wav")
    assert "not a regular file" in refused("/dev/zero")


def test_impossible_sources_are_refused(refused, tmp_path):
    assert "zero" in refused("a\0b.wav") or "null" in refused("a\0b.wav")
    assert "not a NoneType" in refused(None)
    assert "not a int" in refused(7)
    (tmp_path / "a.txt").write_text("text")
    with open(tmp_path / "a.txt", encoding="utf-8") as file:
        assert "text mode" in refused(file)
    with open(tmp_path / "a.txt", "rb") as file:
        pass
    assert "cannot be read" in refused(file)  # closed


# --- files that are no sound


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.flac", "a.ogg", "a.m4a"])
def test_text_is_refused_whatever_its_name(refused, tmp_path, name):
    (tmp_path / name).write_text("The quick brown fox. " * 4000)
    assert "not a known sound (it starts with b'The quick br')" in refused(tmp_path / name)


def test_random_bytes_and_a_stray_sync_are_refused(refused, rng):
    for _ in range(5):
        assert "not a known sound" in refused(rng.bytes(200_000))
    header = b"\xff\xfb\x90\x00"  # MPEG 1 layer III, 128 kbit/s, 44.1 kHz: 417 bytes
    assert "not a known sound" in refused(b"text " * 100 + header + b"more text " * 1000)
    assert "not a known sound" in refused((header + bytes(413)) * 2)  # two frames are no proof


def test_playlists_are_never_followed(refused, tmp_path):
    soundfile.write(tmp_path / "real.wav", np.zeros(100), 8000)
    for text in (
        "#EXTM3U\n#EXTINF:1,\nreal.wav\n",
        "ffconcat version 1.0\nfile real.wav\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\n",
    ):
        (tmp_path / "list.wav").write_text(text)
        assert "not a known sound" in refused(tmp_path / "list.wav")


def test_a_magic_word_alone_is_not_enough(refused):
    for magic in (
        b"RIFF\0\0\0\0WAVE",
        b"fLaC",
        b"OggS",
        b"\x1a\x45\xdf\xa3",
        b"\0\0\0\x18ftypM4A ",
        b"FORM\0\0\0\0AIFF",
        b"caff",
    ):
        refused(magic)
        refused(magic + bytes(5000))


def test_a_film_without_sound(refused):
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        pictures = out.add_stream("mpeg4", rate=10)
        pictures.width = pictures.height = 64
        pictures.pix_fmt = "yuv420p"
        for frame in [av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")] * 3 + [None]:
            out.mux(pictures.encode(frame))
    assert "no sound track" in refused(file)


def test_a_coding_that_is_not_on_the_list(refused, encode, chirp):
    samples = np.round(chirp(RATE_HZ, 1.0) * 1000) / 1000
    assert refused(encode(samples, RATE_HZ, "matroska", "tta")) == "its sound is coded as tta, which is not read"


def test_a_stream_without_end_is_not_swallowed(refused, monkeypatch):
    class Endless(io.RawIOBase):
        def seekable(self):
            return False

        def read(self, size=-1):
            return bytes(size)

    monkeypatch.setattr("clapkit.audio.sources.MAX_PIPE_BYTES", 2 << 20)
    assert "more than 2 MiB from a stream that cannot seek" in refused(Endless())


# --- too short, too long, cut


@pytest.mark.parametrize("container", ["WAV", "FLAC", "AIFF"])
def test_zero_samples_and_one(refused, encode, container):
    nothing = refused(encode(np.zeros(0, np.float32), 8000, container, "PCM_16"))
    assert "no samples" in nothing or nothing == "empty (0 bytes)"
    one = encode(np.array([0.5], np.float32), 8000, container, "PCM_16")
    assert decode(one).samples.tolist() == [0.5]
    assert len(decode(one, rate_hz=48000).samples) == 6
    assert len(decode(encode(np.array([0.5], np.float32), 192000, container, "PCM_16"), rate_hz=8000).samples) == 1


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("WAV", "PCM_16"),
        ("WAV", "FLOAT"),
        ("AIFF", "PCM_24"),
        ("FLAC", "PCM_16"),
        ("mp3", "libmp3lame"),
        ("matroska", "flac"),
    ],
)
def test_the_rule_of_half(refused, encode, tone, container, codec):
    data = encode(tone, RATE_HZ, container, codec)
    assert decode(data).notes == ()
    cut = decode(data[: round(0.8 * len(data))])
    assert 0.7 * len(tone) < len(cut.samples) < 0.9 * len(tone)
    assert any(note.startswith("truncated: ") for note in cut.notes)
    promised = refused(data[: round(0.3 * len(data))])
    assert promised.startswith("truncated: ") and "promises" in promised
    with pytest.raises(AudioError, match="truncated"):
        list(iter_windows(data[: round(0.3 * len(data))], rate_hz=16000, window_s=0.5, hop_s=0.5))


def test_the_rule_of_half_looks_at_the_range_that_is_asked_for(refused, encode, tone):
    data = encode(tone, RATE_HZ, "WAV", "PCM_16")
    cut = data[: len(data) // 4]  # one second of four
    assert decode(cut, start_s=0.2, duration_s=0.5).notes == ()
    assert decode(cut, start_s=0.2, duration_s=0.5).promised_s == 4.0
    assert "truncated: 85 %" in decode(cut, start_s=0.0, duration_s=1.18).notes[0]
    assert "truncated" in refused(cut, start_s=0.9, duration_s=1.0)
    assert "(0 %)" in refused(cut, start_s=2.0, duration_s=1.0)


def test_formats_without_a_promise_give_what_is_there(encode, rng):
    noise = (0.1 * rng.standard_normal(4 * RATE_HZ)).astype(np.float32)
    for container, codec, rate_hz in [("OGG", "VORBIS", RATE_HZ), ("ogg", "libopus", 48000), ("adts", "aac", RATE_HZ)]:
        data = encode(noise, rate_hz, container, codec)
        whole, cut = decode(data), decode(data[: round(0.7 * len(data))])
        assert 0 < len(cut.samples) < 0.8 * len(whole.samples)


def test_a_cut_mp4_without_its_index_is_refused(refused, encode, tone):
    refused(encode(tone, RATE_HZ, "mp4", "aac")[:-2000])


@pytest.mark.parametrize("size", [2**31 - 2**16, 10**9])
def test_a_header_that_promises_gigabytes_takes_no_memory(refused, size):
    data = wav_header(size) + bytes(16000)
    tracemalloc.start()
    assert "truncated" in refused(data)
    assert "truncated" in refused(data, rate_hz=48000)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_a_flac_that_promises_gigabytes(refused, encode, tone):
    data = bytearray(encode(tone, RATE_HZ, "FLAC", "PCM_16"))
    data[21:26] = bytes([data[21] | 0x0F]) + b"\xff" * 4  # 2^36 - 1 samples, 18 days
    assert "longer than" in refused(bytes(data)) or "truncated" in refused(bytes(data))
    assert "truncated" in refused(bytes(data), start_s=2.0, duration_s=60.0)
    assert len(decode(bytes(data), start_s=1.0, duration_s=2.0).samples) == 2 * RATE_HZ


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFFFFF - 36, 0x80000000])
def test_what_a_streaming_writer_leaves_is_no_promise(size):
    samples = (np.arange(4000) % 100).astype("<i2") * 100
    data = wav_header(size, riff_bytes=0xFFFFFFFF) + samples.tobytes()
    sound = decode(data)
    assert len(sound.samples) == 4000 and sound.promised_s is None
    assert np.array_equal(sound.samples, samples / np.float32(32768))
    ((_, window),) = iter_windows(data, rate_hz=8000, window_s=1, hop_s=1)
    assert np.array_equal(window, sound.samples)


def test_a_finished_empty_wav_is_empty_whatever_follows(refused):
    data = wav_header(0, riff_bytes=36 + 12) + b"LIST\x04\0\0\0abcd"
    assert "no samples" in refused(data)
    with pytest.raises(AudioError, match="no samples"):
        list(iter_windows(data, rate_hz=8000, window_s=1, hop_s=1))


def test_three_hours_of_silence(refused, tmp_path):
    path = tmp_path / "silence.flac"
    with soundfile.SoundFile(path, "w", 16000, 1) as file:
        for _ in range(180):
            file.write(np.zeros(16000 * 60, np.int16))
    assert path.stat().st_size < 2_000_000 and probe(path).duration_s == 3 * 3600
    tracemalloc.start()
    last = decode(path, rate_hz=48000, start_s=3 * 3600 - 5, duration_s=10)
    assert len(last.samples) == 5 * 48000 and last.ends
    windows = sum(not samples.any() for _, samples in iter_windows(path, rate_hz=8000, window_s=60, hop_s=60))
    assert windows == 180
    assert tracemalloc.get_traced_memory()[1] < 40_000_000
    tracemalloc.stop()
    assert "longer than 3600 s" in refused(path, max_duration_s=3600)
    assert "longer than" in refused(path, rate_hz=48000)  # 2 GB: above the limit for a whole decode


def test_limits_hold_without_a_promise_too(refused):
    data = wav_header(0) + bytes(16000 * 10)
    assert "longer than 2 s" in refused(data, max_duration_s=2)
    assert len(decode(data, max_duration_s=10).samples) == 80000
    assert len(decode(data, max_duration_s=2, start_s=3, duration_s=2, rate_hz=16000).samples) == 32000
    assert "longer than 5592 s" in refused((np.zeros(1_000_000, np.int8), 1), rate_hz=48000)


def test_a_range_behind_the_end(refused, encode, tone):
    for container, codec in [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("mp3", "libmp3lame"), ("OGG", "VORBIS")]:
        reason = refused(encode(tone, RATE_HZ, container, codec), start_s=5.0, duration_s=1.0)
        assert reason == "no sound at 5 s: it ends before"


# --- broken samples, odd shapes


def test_nan_and_infinite_samples_become_silence_and_are_counted(encode, tone):
    samples = tone.copy()
    samples[[10, 500]] = np.nan
    samples[1000] = -np.inf
    for source in ((samples, RATE_HZ), encode(samples, RATE_HZ, "WAV", "FLOAT")):
        sound = decode(source)
        assert sound.notes == ("3 NaN/inf samples set to 0",)
        good = np.isfinite(samples)
        assert np.array_equal(sound.samples[good], samples[good]) and not sound.samples[~good].any()
        assert np.isfinite(decode(source, rate_hz=16000).samples).all()
        assert all(np.isfinite(w).all() for _, w in iter_windows(source, rate_hz=16000, window_s=1, hop_s=1))


def test_numbers_beyond_all_sound_count_as_broken():
    samples = np.array([0.1, 1e300, -1e30, 0.2])
    assert decode((samples, 8000)).samples.tolist() == pytest.approx([0.1, 0, 0, 0.2])


def test_nothing_but_nan_is_an_error(refused, encode):
    for source in ((np.full(1000, np.nan), 8000), encode(np.full(1000, np.inf, np.float32), 8000, "WAV", "FLOAT")):
        assert refused(source) == "every sample is NaN or infinite"
        with pytest.raises(AudioError, match="every sample is NaN"):
            list(iter_windows(source, rate_hz=8000, window_s=1, hop_s=1))


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.float32(0.5), "0 dimensions"),
        (np.zeros((2, 3, 4)), "3 dimensions"),
        (np.zeros(0), "no samples"),
        (np.zeros((0, 2)), "no samples"),
        (np.zeros((2, 48000)), "transpose"),
        (np.zeros(10, complex), "complex128"),
        (np.zeros(10, bool), "bool"),
        (np.array(["a"]), "<U1"),
        ([[1.0, 2.0], [3.0]], "array"),
    ],
)
def test_arrays_that_are_no_sound(refused, array, reason):
    assert reason in refused((array, 8000))


@pytest.mark.parametrize("rate_hz", [0, -8000, float("nan"), float("inf"), 8000.5, 2_000_000, None, "8000"])
def test_an_array_with_a_bad_rate(refused, rate_hz):
    assert f"{rate_hz!r} is not a sample rate" in refused((np.zeros(100), rate_hz))


def test_a_tuple_of_three(refused):
    assert "tuple of 3" in refused((np.zeros(10), 8000, 1))


def test_a_file_with_an_absurd_rate_or_no_channels(refused):
    assert "not a sample rate" in refused(wav_header(8000, rate_hz=2_000_000) + bytes(8000))
    refused(wav_header(8000, channels=0) + bytes(8000))
