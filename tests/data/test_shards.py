"""Tar shards as manifests: what others write, what we write, and what is wrong with some."""

from __future__ import annotations

import filecmp
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from clapkit.data import manifest
from clapkit.data.cache import cache_audio
from clapkit.data.clip import Clip, Event
from clapkit.data.shards import expand, is_shards, write_shards
from clapkit.errors import DataError


def sound(pitch_hz: float, form: str = "FLAC") -> bytes:
    out = io.BytesIO()
    tone = 0.3 * np.sin(2 * np.pi * pitch_hz * np.arange(4000) / 8000)
    soundfile.write(out, tone, 8000, format=form)
    return out.getvalue()


def shard(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return path


def sample(key: str, pitch_hz: float = 400, **more) -> list[tuple[str, bytes]]:
    return [(f"{key}.flac", sound(pitch_hz)), (f"{key}.json", json.dumps({"caption": f"sound {key}", **more}).encode())]


def notes(found: manifest.Manifest) -> str:
    return "\n".join(found.report[0].warnings)


def test_samples_as_others_write_them(tmp_path):
    path = shard(
        tmp_path / "a.tar",
        [
            ("x/002.json", json.dumps({"text": ["a dog", "it barks"], "tag": ["dog"], "path": "/etc/passwd"}).encode()),
            ("x/002.flac", sound(300)),
            ("x/001.WAV", sound(500, "WAV")),
            ("x/001.txt", "Regen\nfällt\n\n".encode()),
            ("003.ogg", sound(600, "OGG")),
            ("003.cls", b"12\n"),
            ("003.png", b"picture"),
            ("._003.wav", b"of another system"),
        ],
    )
    found = manifest.read(path)
    # In the order of the shard, not of the names.
    assert [c.id for c in found] == ["a.tar/x/002.flac", "a.tar/x/001.WAV", "a.tar/003.ogg"]
    dog, rain, number = found
    assert dog.captions == () and dog.tags == ("dog",) and dog.meta["path in json"] == "/etc/passwd"
    assert rain.captions == ("Regen", "fällt") and number.label == "12"
    assert dog.meta["text"] == ["a dog", "it barks"]  # read where no sample has a caption: as in every table
    assert Path(str(dog.audio)) == path / "x" / "002.flac"
    assert "members that were not read: 1 .png" in notes(found)
    alone = manifest.read(shard(tmp_path / "b.tar", [("1.flac", sound(300)), ("1.json", b'{"text": ["a", "b"]}')]))
    assert alone.clips[0].captions == ("a", "b")


def test_sounds_are_read_in_place_at_random_and_by_processes(tmp_path):
    path = shard(tmp_path / "a.tar", [m for n in range(5) for m in sample(f"{n}", 200 + 100 * n)])
    clips = manifest.read(path).clips
    for workers in (0, 1):
        cached = cache_audio(clips[::-1], rate_hz=8000, workers=workers, folder=tmp_path / f"cache{workers}")
        for position, n in enumerate(reversed(range(5))):
            wanted = soundfile.read(io.BytesIO(sound(200 + 100 * n)))[0]
            assert np.abs(cached.samples(position) - wanted).max() < 1e-4
    before = cached.samples(0)
    shard(
        path, [m for n in range(5) for m in sample(f"{n}", 900)]
    )  # another sound under the same name is another sound
    again = cache_audio(manifest.read(path).clips[::-1], rate_hz=8000, workers=0, folder=tmp_path / "cache1")
    assert np.abs(again.samples(0) - before).max() > 0.1


def test_a_tar_a_folder_and_a_pattern(tmp_path):
    for name in ("train/s-00.tar", "train/s-01.tar", "test/s-00.tar"):
        shard(tmp_path / name, sample("1") + sample("2"))
    one = manifest.read(tmp_path / "train" / "s-01.tar")
    assert [c.id for c in one] == ["s-01.tar/1.flac", "s-01.tar/2.flac"]
    two = manifest.read(tmp_path / "train")
    assert [c.id for c in two] == [f"s-0{n}.tar/{m}.flac" for n in (0, 1) for m in (1, 2)]
    assert [c.id for c in manifest.read(f"{tmp_path}/train/s-{{00..01}}.tar")] == [c.id for c in two]
    both = manifest.read(tmp_path, splits={"split": ["train"]})
    assert [c.id for c in both] == [f"train/{c.id}" for c in two]
    by_pattern = manifest.read(f"{tmp_path}/{{train,test}}/s-00.tar")
    assert [(c.id, c.split) for c in by_pattern][::2] == [
        ("train/s-00.tar/1.flac", "train"),
        ("test/s-00.tar/1.flac", "test"),
    ]
    with pytest.raises(DataError, match=r"there is no shard .*s-02\.tar"):
        manifest.read(f"{tmp_path}/train/s-{{00..02}}.tar")
    with pytest.raises(DataError, match="no such file"):
        manifest.read(tmp_path / "none.tar")


def test_a_tar_beside_sound_files_is_no_shard(tmp_path):
    shard(tmp_path / "backup.tar", sample("1"))
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "a.flac").write_bytes(sound(300))
    found = manifest.read(tmp_path)
    assert [c.id for c in found] == ["dog/a.flac"] and "1 .tar" in notes(found)


def test_patterns_are_counted_with_their_zeros():
    assert expand("s-{008..011}.tar") == ["s-008.tar", "s-009.tar", "s-010.tar", "s-011.tar"]
    assert expand("{a,b}/{0..1}") == ["a/0", "a/1", "b/0", "b/1"]
    assert expand("plain.tar") == ["plain.tar"]
    for pattern in ("{3..1}.tar", "{0..99999999999}.tar"):
        with pytest.raises(DataError, match="counts up"):
            expand(pattern)
    with pytest.raises(DataError, match="stands for 2,500,000,000 names"):
        expand("{0..49999}{0..49999}.tar")


def test_a_damaged_sample_and_a_damaged_shard_cost_themselves(tmp_path):
    bad = [
        ("1.5s_dog.wav", sound(300, "WAV")), ("1.7s_dog.wav", sound(300, "WAV")),
        ("json.flac", sound(300)), ("json.json", b"{not json"),
        ("list.flac", sound(300)), ("list.json", b"[]"),
        ("latin.flac", sound(300)), ("latin.txt", b"gr\xfc\xdfe"),
        ("mute.txt", b"silence"),
        ("huge.flac", sound(300)), ("huge.json", b" " * (2 << 20)),
        *sample("good"), *sample("other"), *sample("good"),
    ]  # fmt: skip
    shard(tmp_path / "0.tar", bad)
    whole = shard(tmp_path / "1.tar", sample("a") + sample("b")).read_bytes()
    (tmp_path / "2.tar").write_bytes(whole[: len(sound(400)) + 3000])
    (tmp_path / "3.tar").write_bytes(b"no tar at all" * 100)
    found = manifest.read(tmp_path)
    assert [c.id for c in found] == [
        "0.tar/good.flac",
        "0.tar/other.flac",
        "1.tar/a.flac",
        "1.tar/b.flac",
        "2.tar/a.flac",
    ]
    told = notes(found)
    for reason in (
        "more than one sound (a name ends at its first dot): 0.tar: 1",
        "its .json is not JSON: 0.tar: json",
        "its .json is not an object: 0.tar: list",
        "its .txt is not UTF-8 text: 0.tar: latin",
        "its .json is larger than 1 MiB: 0.tar: huge",
        "without sound: 0.tar: mute",
        "left out, ",
        "2.tar: byte ",
        "3.tar: byte 0: no tar header where one has to be",
    ):
        assert reason in told, (reason, told)


def test_a_sound_that_is_none_costs_itself_in_training(tmp_path):
    path = shard(
        tmp_path / "a.tar", [*sample("1"), ("2.flac", b"no sound"), ("2.txt", b"a caption"), *sample("3", 500)]
    )
    cached = cache_audio(manifest.read(path).clips, rate_hz=8000, workers=1)
    assert [c.id for c in cached.clips] == ["a.tar/1.flac", "a.tar/3.flac"]
    assert cached.failures[0].source == "a.tar/2.flac" and "not a known sound" in cached.failures[0].reason


def test_where_nothing_is_left_everything_is_told(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(DataError, match=r"(?s)no sample with sound in 1 shard.*no tar header"):
        manifest.read(tmp_path / "a.tar")


def test_a_manifest_may_name_sounds_inside_tars(tmp_path):
    shard(tmp_path / "a.tar", sample("1"))
    (tmp_path / "manifest.csv").write_text("path,caption\na.tar/1.flac,mine\n", encoding="utf-8")
    found = manifest.read(tmp_path)  # the manifest goes before the tars of its folder
    assert found.clips[0].captions == ("mine",)
    (tmp_path / "manifest.csv").write_text("path,caption\na.tar/2.flac,mine\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.tar/2\.flac does not exist"):
        manifest.read(tmp_path)


# ---- Writing -------------------------------------------------------------------------------------------------------


@pytest.fixture
def clips(tmp_path):
    (tmp_path / "sounds").mkdir()
    (tmp_path / "sounds" / "a.flac").write_bytes(sound(300))
    event = Event("dog", 0.1, 0.2)
    return [
        Clip("a", str(tmp_path / "sounds" / "a.flac"), captions=("a dog", "ein Hünd"), label="dog", split="train"),
        Clip("b", sound(400, "OGG"), tags=("x", "y"), captions=("b",), events=(event,), meta={"url": "u", "n": None}),
        Clip("c", str(tmp_path / "sounds" / "a.flac"), captions=("c",), start_s=0.1, duration_s=0.2),
    ]


def test_what_is_written_comes_back(clips, tmp_path):
    written = write_shards(clips, tmp_path / "out")
    assert [p.name for p in written.shards] == ["shard-000000.tar"] and written.clips == 3 and not written.skipped
    with tarfile.open(written.shards[0]) as tar:
        assert tar.getnames() == [f"{n:08d}.{e}" for n, s in enumerate(("flac", "ogg", "flac")) for e in (s, "json")]
        first = tar.extractfile("00000000.flac")
        assert first is not None and first.read() == sound(300)
    back = manifest.read(tmp_path / "out").clips
    same = ("id", "captions", "label", "tags", "split", "start_s", "duration_s", "events", "wrong")
    for clip, again in zip(clips, back, strict=True):
        assert {name: getattr(again, name) for name in same} == {name: getattr(clip, name) for name in same}
    assert back[1].meta["url"] == "u"
    # And once more, from the shards themselves, to the same bytes.
    second = write_shards(back, tmp_path / "second")
    assert filecmp.cmp(second.shards[0], written.shards[0], shallow=False)


def test_shards_have_the_size_that_was_asked_for(tmp_path, rng):
    many = [Clip(f"{n}", sound(200 + n, "WAV"), captions=(f"{n}",)) for n in range(20)]  # 9.7 kB each in a tar
    written = write_shards(many, tmp_path / "out", size_mb=0.05)
    assert len(written.shards) == 4 and all(p.stat().st_size < 70_000 for p in written.shards)
    assert [c.id for c in manifest.read(tmp_path / "out")] == [c.id for c in many]
    assert len(write_shards(many, tmp_path / "tiny", size_mb=1e-6).shards) == 20


def test_what_cannot_be_written_is_told(clips, tmp_path):
    gone = Clip("gone", str(tmp_path / "gone.flac"), captions=("x",))
    odd = Clip("odd", b"not a sound", captions=("x",))
    decoded = Clip("decoded", np.zeros(10, np.float32), captions=("x",))
    written = write_shards([gone, odd, decoded, *clips], tmp_path / "out")
    assert written.clips == 3 and [name for name, _ in written.skipped] == ["gone", "odd", "decoded"]
    with pytest.raises(DataError, match="holds shards already"):
        write_shards(clips, tmp_path / "out")
    with pytest.raises(DataError, match="none of the 1 clips can be read"):
        write_shards([gone], tmp_path / "other")
    with pytest.raises(DataError, match="a shard of 0 megabytes"):
        write_shards(clips, tmp_path / "other", size_mb=0)
    assert not is_shards(tmp_path / "other")
