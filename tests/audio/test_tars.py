"""Tars read in place, against the tarfile module; hostile and damaged ones."""

from __future__ import annotations

import io
import os
import re
import tarfile
import tracemalloc
from collections import Counter

import numpy as np
import pytest
import soundfile

from clapkit.audio.decode import decode
from clapkit.audio.tars import TarIndex, is_member, read_index, read_member, split_address
from clapkit.errors import AudioError


def add(tar: tarfile.TarFile, name: str, content: bytes = b"", **about) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for key, value in about.items():
        setattr(member, key, value)
    tar.addfile(member, io.BytesIO(content))


def names(index: TarIndex) -> list[str]:
    return [member.name for member in index.members]


def header(name: bytes, kind: bytes, size: int) -> bytes:
    """A tar header whose length says whatever it is told to say."""
    block = bytearray(512)
    block[: len(name)] = name
    block[124:136] = b"\x80" + size.to_bytes(11, "big")
    block[156:157], block[257:265] = kind, b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_member_is_found_where_tarfile_finds_it(tmp_path, rng, form):
    path = tmp_path / "a.tar"
    long = "/".join(["folder"] * 9) + "/" + "n" * 80 + ".flac"
    with tarfile.open(path, "w", format=form) as tar:
        for name in ("a.flac", "./b.json", "sub/c.wav", "größe.txt", long):
            add(tar, name, rng.bytes(int(rng.integers(0, 3000))))
        add(tar, "folder", type=tarfile.DIRTYPE)
    index = read_index(path)
    with tarfile.open(path) as tar:
        opened = {m.name.removeprefix("./"): tar.extractfile(m) for m in tar if m.isreg()}
        wanted = {name: file.read() for name, file in opened.items() if file is not None}
    assert names(index) == list(wanted) and index.problems == ()
    for name, content in wanted.items():
        assert read_member(path / name) == content
        assert is_member(path / name)
    assert not is_member(path / "other.flac") and not is_member(tmp_path / "b.tar" / "a.flac")
    assert split_address(path / long) == (path, long)
    assert split_address(path) is None and read_member(tmp_path / "a.flac") is None


def test_a_sound_in_a_tar_is_decoded_as_the_file(tmp_path, rng):
    sound = (0.1 * rng.standard_normal(8000)).astype(np.float32)
    soundfile.write(tmp_path / "a.flac", sound, 8000)
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        add(tar, "first.txt", b"text")
        add(tar, "a.flac", (tmp_path / "a.flac").read_bytes())
        add(tar, "none.wav")
    inside = decode(str(tmp_path / "s.tar" / "a.flac"), start_s=0.25, duration_s=0.5)
    outside = decode(tmp_path / "a.flac", start_s=0.25, duration_s=0.5)
    assert np.array_equal(inside.samples, outside.samples)
    with pytest.raises(AudioError, match=r"s\.tar holds no file 'b\.flac'"):
        decode(tmp_path / "s.tar" / "b.flac")
    with pytest.raises(AudioError, match="empty"):
        decode(tmp_path / "s.tar" / "none.wav")


def test_a_folder_that_is_called_a_tar_is_a_folder(tmp_path):
    (tmp_path / "x.tar").mkdir()
    (tmp_path / "x.tar" / "a.txt").write_text("a", encoding="utf-8")
    assert split_address(tmp_path / "x.tar" / "a.txt") is None


def test_the_headers_are_read_once_and_again_when_the_tar_has_changed(tmp_path, monkeypatch):
    from clapkit.audio import tars

    path, scans = tmp_path / "a.tar", Counter[str]()
    with tarfile.open(path, "w") as tar:
        add(tar, "a.txt", b"one")
    whole = tars._Scan.index
    monkeypatch.setattr(tars._Scan, "index", lambda self: (scans.update(["scan"]), whole(self))[1])
    first = read_index(path)
    tars._indexed.cache_clear()  # as in another process
    assert read_index(path) == first and scans.total() == 1
    with tarfile.open(path, "w") as tar:
        add(tar, "b.txt", b"two")
    os.utime(path, ns=(1, 1))
    assert names(read_index(path)) == ["b.txt"] and scans.total() == 2
    monkeypatch.setenv("CLAPKIT_CACHE", str(path / "no folder"))  # a cache that cannot be written costs time only
    tars._indexed.cache_clear()
    assert names(read_index(path)) == ["b.txt"] and scans.total() == 3


def test_names_that_lead_elsewhere_and_links_are_left_out(tmp_path):
    secret = tmp_path / "secret.wav"
    secret.write_bytes(b"not for you")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("../secret.wav", str(secret), "a/../../secret.wav", "C:secret.wav", "a\\b.wav"):
            add(tar, name, b"x")
        add(tar, "link.wav", type=tarfile.SYMTYPE, linkname=str(secret))
        add(tar, "hard.wav", type=tarfile.LNKTYPE, linkname="../secret.wav")
        add(tar, "pipe.wav", type=tarfile.FIFOTYPE)
        add(tar, "good.wav", b"good")
        add(tar, "good.wav", b"again")
    index = read_index(tmp_path / "a.tar")
    assert names(index) == ["good.wav"] and read_member(tmp_path / "a.tar" / "good.wav") == b"good"
    told = "\n".join(index.problems)
    assert "'../secret.wav' was left out: a path that leads elsewhere" in told
    assert "'C:secret.wav' was left out: not a relative path" in told
    assert "'good.wav' was left out: it is there twice" in told
    assert "3 link(s) or device(s) were left out" in told
    for name in ("link.wav", "../secret.wav"):
        with pytest.raises(AudioError, match=r"holds no file|no such file|cannot be opened"):
            decode(f"{tmp_path / 'a.tar'}/{name}")


@pytest.mark.parametrize("kind", [b"x", b"L", b"g", b"K"])
def test_a_header_that_promises_gigabytes_costs_no_memory(tmp_path, kind):
    good = io.BytesIO()
    with tarfile.open(fileobj=good, mode="w") as tar:
        add(tar, "good.txt", b"good")
    path = tmp_path / "bomb.tar"
    path.write_bytes(good.getvalue()[:1024] + header(b"bomb", kind, 1 << 40) + bytes(4096))
    index = read_index(path)
    assert names(index) == ["good.txt"]
    assert "byte 1024: 'bomb' is cut off; what comes behind it is lost" in index.problems
    # The same with the bytes there: 64 MiB of names are stepped over.
    with path.open("wb") as file:
        file.write(header(b"bomb", kind, 64 << 20))
        file.seek(64 << 20, os.SEEK_CUR)
        file.write(good.getvalue())
    tracemalloc.start()
    try:
        index = read_index(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    if kind in b"xL":
        assert names(index) == [] and "its header has 67108864 bytes" in index.problems[0]
    else:
        assert names(index) == ["good.txt"]


def test_what_stands_before_the_damage_is_kept(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(4):
            add(tar, f"{number}.txt", b"z" * 700)
    whole = (tmp_path / "a.tar").read_bytes()
    third = 2 * (512 + 1024)
    damages = {
        "cut in a file": (whole[: third + 600], r"'2\.txt' is cut off"),
        "cut in a header": (whole[: third + 100], "no tar header"),
        "overwritten": (whole[:third] + b"\xff" * 512 + whole[third + 512 :], f"byte {third}: no tar header"),
        "negative length": (
            whole[:third] + header(b"2.txt", b"0", 0)[:124] + b"\xff" * 12 + whole[third + 136 :],
            "byte",
        ),
    }
    for name, (content, reason) in damages.items():
        path = tmp_path / f"{name}.tar"
        path.write_bytes(content)
        index = read_index(path)
        assert names(index) == ["0.txt", "1.txt"], name
        assert len(index.problems) == 1 and re.search(reason, index.problems[0]), index.problems
    (tmp_path / "none.tar").write_bytes(b"")
    assert read_index(tmp_path / "none.tar") == TarIndex((), ())


def test_a_tar_that_was_cut_after_its_index_was_made_is_told(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, "a.wav", b"z" * 5000)
    status = path.stat()
    read_index(path)
    with path.open("r+b") as file:
        file.truncate(1000)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(AudioError, match=r"a\.tar holds no file 'a\.wav' \(byte 0: 'a\.wav' is cut off"):
        read_member(path / "a.wav")


def test_lengths_of_an_extension_header_and_sparse_files(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        add(tar, "long.txt", b"w" * 300, pax_headers={"size": "300", "comment": "x"})
        add(tar, "sparse.wav", b"w", pax_headers={"GNU.sparse.major": "1"})
        add(tar, "next.txt", b"n")
    index = read_index(tmp_path / "a.tar")
    assert [(m.name, m.size) for m in index.members] == [("long.txt", 300), ("next.txt", 1)]
    assert index.problems == ("'sparse.wav' was left out: a sparse file",)
