from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from clapkit.audio.decode import DECODER_VERSION, decode, decoder_id, iter_windows, probe
from clapkit.audio.resample import resample
from clapkit.audio.windows import plan_windows
from clapkit.errors import SpecError

# container, codec, rate, the container's name here, largest error against what was encoded
LOSSLESS = [
    ("WAV", "PCM_U8", 44100, "wav", 0.012),
    ("WAV", "PCM_16", 8000, "wav", 5e-5),
    ("WAV", "PCM_24", 44100, "wav", 2e-7),
    ("WAV", "PCM_32", 192000, "wav", 1e-7),
    ("WAV", "FLOAT", 48000, "wav", 0),
    ("WAV", "DOUBLE", 48000, "wav", 0),
    ("RF64", "PCM_16", 44100, "wav", 5e-5),
    ("W64", "PCM_16", 44100, "w64", 5e-5),
    ("AIFF", "PCM_16", 44100, "aiff", 5e-5),
    ("AIFF", "PCM_24", 44100, "aiff", 2e-7),
    ("CAF", "PCM_16", 44100, "caf", 5e-5),
    ("AU", "PCM_16", 44100, "au", 5e-5),
    ("FLAC", "PCM_16", 44100, "flac", 5e-5),
    ("FLAC", "PCM_24", 96000, "flac", 2e-7),
    ("ogg", "flac", 44100, "ogg", 5e-5),
    ("mov", "alac", 44100, "mp4", 5e-5),
    ("matroska", "flac", 44100, "matroska", 5e-5),
]
LOSSY = [
    ("mp3", "libmp3lame", 44100, "mp3", 0.02),
    ("MP3", "MPEG_LAYER_III", 22050, "mp3", 0.02),
    ("adts", "aac", 44100, "adts", 0.02),
    ("ipod", "aac", 44100, "mp4", 0.02),
    ("mp4", "aac", 48000, "mp4", 0.02),
    ("matroska", "aac", 44100, "matroska", 0.02),
    ("OGG", "VORBIS", 44100, "ogg", 0.02),
    ("OGG", "OPUS", 48000, "ogg", 0.05),
    ("ogg", "libopus", 48000, "ogg", 0.05),
    ("webm", "libopus", 48000, "matroska", 0.05),
]
_ADTS_DELAY = 1024  # raw AAC has no place to write the encoder's delay down


@pytest.fixture(scope="module")
def files(chirp, encode):
    """8 seconds of the chirp in every format, made when first asked for."""
    made: dict = {}

    def get(container, codec, rate_hz):
        key = container, codec, rate_hz
        if key not in made:
            made[key] = encode(chirp(rate_hz, 8.0), rate_hz, container, codec)
        return made[key]

    return get


def names(formats):
    return [f"{f[0]}-{f[1]}" for f in formats]


@pytest.mark.parametrize(("container", "codec", "rate_hz", "known_as", "error"), LOSSLESS, ids=names(LOSSLESS))
def test_lossless_formats_give_what_was_written(files, chirp, container, codec, rate_hz, known_as, error):
    sound = decode(files(container, codec, rate_hz))
    assert sound.samples.dtype == np.float32 and sound.notes == ()
    assert sound.rate_hz == sound.source_rate_hz == rate_hz
    assert len(sound.samples) == 8 * rate_hz
    assert np.abs(sound.samples - chirp(rate_hz, 8.0)).max() <= error
    info = probe(files(container, codec, rate_hz))
    assert (info.rate_hz, info.channels, info.container) == (rate_hz, 1, known_as)
    assert info.duration_s == pytest.approx(8.0, abs=1e-3)
    assert info.decoder == sound.decoder == ("pyav" if known_as in ("ogg", "mp4", "matroska") else "soundfile")


@pytest.mark.parametrize(("container", "codec", "rate_hz", "known_as", "error"), LOSSY, ids=names(LOSSY))
def test_lossy_formats_are_close_and_in_place(files, chirp, container, codec, rate_hz, known_as, error):
    sound = decode(files(container, codec, rate_hz))
    late = _ADTS_DELAY if known_as == "adts" else 0
    assert sound.notes == () and abs(len(sound.samples) - late - 8 * rate_hz) <= 1024
    middle = slice(rate_hz // 2, 7 * rate_hz)
    made, written = sound.samples[late:][middle], chirp(rate_hz, 8.0)[middle]
    assert np.sqrt(np.mean((made - written) ** 2)) <= error
    # One sample off would be an error of 0.03 or more where the chirp is fast.
    assert probe(files(container, codec, rate_hz)).duration_s == pytest.approx(8.0, abs=0.06)


@pytest.mark.parametrize(
    ("container", "codec", "rate_hz"), [f[:3] for f in LOSSLESS + LOSSY], ids=names(LOSSLESS + LOSSY)
)
@pytest.mark.parametrize("to_hz", [None, 16000])
def test_a_range_is_the_slice_of_the_whole(files, container, codec, rate_hz, to_hz):
    data = files(container, codec, rate_hz)
    whole = decode(data, rate_hz=to_hz)
    for start_s, duration_s in [(0.0, 1.0), (0.3337, 2.0), (3.1416, 1.5), (6.5, 100.0), (7.9, None)]:
        piece = decode(data, rate_hz=to_hz, start_s=start_s, duration_s=duration_s)
        first = round(start_s * whole.rate_hz)
        expected = whole.samples[first : None if duration_s is None else first + round(duration_s * whole.rate_hz)]
        assert piece.samples.shape == expected.shape
        # Resampling may round otherwise; AAC may draw the noise of its noise bands anew.
        np.testing.assert_allclose(piece.samples, expected, atol=2e-2 if codec == "aac" else 1e-6)
        assert piece.ends == (start_s + (duration_s or 100.0) >= 8.0)


@pytest.mark.parametrize(
    ("container", "codec", "rate_hz"), [f[:3] for f in LOSSLESS + LOSSY], ids=names(LOSSLESS + LOSSY)
)
def test_windows_are_those_of_the_whole(files, container, codec, rate_hz):
    data = files(container, codec, rate_hz)
    for to_hz in (rate_hz, 16000):
        whole = decode(data, rate_hz=to_hz).samples
        windows = list(iter_windows(data, rate_hz=to_hz, window_s=2.0, hop_s=0.9))
        plan = plan_windows(len(whole), 2 * to_hz, round(0.9 * to_hz))
        assert [start_s for start_s, _ in windows] == [w.start / to_hz for w in plan]
        for (_, samples), w in zip(windows, plan, strict=True):
            assert np.array_equal(samples, whole[w.start : w.start + w.length])


def test_windows_longer_than_the_sound_and_of_exactly_its_length(chirp):
    source = (chirp(8000, 1.0), 8000)
    for window_s in (1.0, 5.0):
        ((start_s, samples),) = iter_windows(source, rate_hz=8000, window_s=window_s, hop_s=window_s)
        assert start_s == 0.0 and np.array_equal(samples, source[0])


@pytest.mark.parametrize(("window_s", "hop_s"), [(1.0, 2.0), (0.0, 0.0), (1.0, 0.0), (float("nan"), 1.0)])
def test_windows_that_leave_sound_out_are_refused_at_once(chirp, window_s, hop_s):
    with pytest.raises(SpecError, match="leave sound out"):
        iter_windows((chirp(8000, 1.0), 8000), rate_hz=8000, window_s=window_s, hop_s=hop_s)


def test_vorbis_ranges_of_every_position(files):
    data = files("OGG", "VORBIS", 44100)
    whole = decode(data).samples
    for start in range(1000, len(whole) - 5000, 37813):
        piece = decode(data, start_s=start / 44100, duration_s=0.1).samples
        np.testing.assert_allclose(piece, whole[start : start + 4410], atol=1e-6)


def test_same_input_same_bits(files):
    for container, codec, rate_hz, *_ in LOSSY:
        data = files(container, codec, rate_hz)
        assert np.array_equal(decode(data, rate_hz=32000).samples, decode(data, rate_hz=32000).samples)


def test_every_kind_of_source_gives_the_same(tmp_path, chirp):
    path = tmp_path / "ein Klang, 音 и звук.wav"
    soundfile.write(path, chirp(16000, 1.0), 16000, subtype="FLOAT")
    data = path.read_bytes()
    with open(path, "rb") as file, open(path, "rb", buffering=0) as raw:
        used = io.BytesIO(data)
        used.read()  # a file object is read from its start, wherever it stands
        for source in (path, str(path), data, bytearray(data), memoryview(data), file, raw, used):
            assert np.array_equal(
                decode(source, rate_hz=8000).samples, decode((chirp(16000, 1.0), 16000), rate_hz=8000).samples
            )
        assert not file.closed and not used.closed


def test_a_stream_that_cannot_seek_is_read_into_memory(chirp, encode):
    class Pipe(io.RawIOBase):
        def __init__(self, data):
            self.data = io.BytesIO(data)

        def readable(self):
            return True

        def seekable(self):
            return False

        def readinto(self, buffer):
            return self.data.readinto(buffer)

    assert np.array_equal(decode(Pipe(encode(chirp(8000, 1.0), 8000, "WAV", "FLOAT"))).samples, chirp(8000, 1.0))


@pytest.mark.parametrize(
    ("dtype", "full", "zero"),
    [("int8", 128, 0), ("int16", 2**15, 0), ("int32", 2**31, 0), ("uint8", 128, 128), ("uint16", 2**15, 2**15)],
)
def test_integers_are_scaled_by_their_full_scale(dtype, full, zero):
    values = np.array([0.0, 0.5, -0.5, -1.0])
    array = (values * full + zero).astype(dtype)
    assert decode((array, 8000)).samples.tolist() == values.tolist()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_floats_are_taken_as_they_are(dtype):
    assert decode((np.array([0.0, 0.5, -2.0], dtype), 8000)).samples.tolist() == [0.0, 0.5, -2.0]


def test_a_64_bit_integer_is_divided_by_its_full_scale_and_noted():
    sound = decode((np.array([2**62, -(2**63)]), 8000))
    assert sound.samples.tolist() == [0.5, -1.0] and "int64" in sound.notes[0]


def test_the_result_is_not_the_array_of_the_caller(chirp):
    mine = chirp(8000, 0.1)
    decode((mine, 8000)).samples[:] = 0
    assert mine.any()


@pytest.mark.parametrize(
    ("container", "codec"), [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS")]
)
def test_channels_are_averaged(encode, chirp, container, codec):
    parts_NC = np.stack([chirp(48000, 1.0), 0.5 * chirp(48000, 1.0), np.zeros(48000, np.float32)], 1)
    sound = decode(encode(parts_NC, 48000, container, codec))
    assert np.abs(sound.samples - parts_NC.mean(1)).mean() < (5e-5 if container != "OGG" else 0.02)
    assert probe(encode(parts_NC, 48000, container, codec)).channels == 3


def test_eight_channels_and_the_downmix_comes_first(encode, rng):
    parts_NC = (0.1 * rng.standard_normal((20000, 8))).astype(np.float32)
    sound = decode(encode(parts_NC, 44100, "WAV", "FLOAT"), rate_hz=16000)
    np.testing.assert_allclose(sound.samples, resample(parts_NC.mean(1), 44100, 16000), atol=1e-6)


def test_the_sound_of_a_video_is_found(chirp, tmp_path):
    import av

    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as out:
        pictures, sound = out.add_stream("mpeg4", rate=10), out.add_stream("aac", rate=44100, layout="mono")
        pictures.width = pictures.height = 64
        pictures.pix_fmt = "yuv420p"
        for _ in range(20):
            out.mux(pictures.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        frame = av.AudioFrame.from_ndarray(chirp(44100, 2.0)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44100, 0
        for piece in [*av.AudioResampler("fltp", "mono", 44100, 1024).resample(frame), None]:
            out.mux(sound.encode(piece))
        out.mux(pictures.encode(None))
    made = decode(path).samples
    assert probe(path).container == "mp4"
    assert np.sqrt(np.mean((made[5000:80000] - chirp(44100, 2.0)[5000:80000]) ** 2)) < 0.02


def test_a_range_of_a_long_file_reads_little_of_it(tmp_path, rng):
    """Half an hour of noise; a file object counts what is read of it."""

    class Counted(io.FileIO):
        taken = 0

        def readinto(self, buffer):
            got = super().readinto(buffer)
            self.taken += got
            return got

        def read(self, size=-1):
            data = super().read(size)
            self.taken += len(data)
            return data

    noise = (0.1 * rng.standard_normal(8000 * 60)).astype(np.float32)
    for name in ("long.wav", "long.flac"):
        with soundfile.SoundFile(tmp_path / name, "w", 8000, 1) as sound:
            for _ in range(30):
                sound.write(noise)
        with Counted(tmp_path / name) as file:
            piece = decode(file, start_s=1234.5, duration_s=2.0).samples
            assert file.taken < 500_000 < (tmp_path / name).stat().st_size / 20
        first = round(1234.5 * 8000) % len(noise)
        np.testing.assert_allclose(piece, noise[first : first + 16000], atol=5e-5)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"start_s": -1.0}, "start_s is -1.0"),
        ({"start_s": float("nan")}, "start_s is nan"),
        ({"duration_s": 0.0}, "duration_s is 0.0"),
        ({"duration_s": float("inf")}, "duration_s is inf"),
        ({"max_duration_s": -3.0}, "max_duration_s is -3.0"),
        ({"rate_hz": 0}, "0 is not a sample rate"),
    ],
)
def test_arguments_that_cannot_be_are_named(arguments, named):
    with pytest.raises(SpecError, match=named):
        decode((np.zeros(10, np.float32), 8000), **arguments)


def test_the_decoder_has_a_name():
    assert decoder_id() == f"clapkit-decode-{DECODER_VERSION}"


def test_real_sound_decodes(shared_data):
    files = sorted(shared_data.rglob("*.ogg"))
    assert files
    for path in files[:: max(1, len(files) // 150)]:
        sound = decode(path, rate_hz=32000)
        assert sound.notes == () and 0.05 < sound.duration_s <= 10.1
        assert np.isfinite(sound.samples).all()


def test_real_sound_agrees_with_libsndfile(shared_data):
    for path in sorted(shared_data.rglob("*.ogg"))[:: 6082 // 10]:
        ours, (theirs, rate_hz) = decode(path), soundfile.read(path, dtype="float32")
        assert ours.decoder == "pyav" and ours.rate_hz == rate_hz
        np.testing.assert_allclose(ours.samples, theirs, atol=2e-6)  # both are libopus
