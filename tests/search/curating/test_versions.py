"""Versions: planted copies and cuts, real sound encoded again, groups, and neighbours by vectors."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
import soundfile

from clapkit.audio.decode import decode
from clapkit.errors import AudioError, SpecError
from clapkit.search.curating.files import FileTable
from clapkit.search.curating.versions import Link, alike, groups_of, hear, same_contents, versions_of
from clapkit.search.fingerprint import RATE_HZ, fingerprint


def scene(rng: np.random.Generator, seconds: float) -> np.ndarray:
    noise = np.convolve(rng.standard_normal(int(seconds * RATE_HZ)), rng.standard_normal(32) * 0.3, mode="same")
    swell = np.interp(np.linspace(0, 1, len(noise)), np.linspace(0, 1, 12), rng.uniform(0.1, 1, 12))
    return (0.1 * swell * noise / np.abs(noise).max()).astype(np.float32)


def table_of(vectors, contents) -> FileTable:
    names = tuple(f"f{n}" for n in range(len(contents)))
    vectors = np.asarray(vectors, np.float32)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return FileTable(names, unit, np.ones(len(names)), tuple(contents), "space")


def test_copies_cuts_and_parts_are_told_apart(rng):
    whole = scene(rng, 8.0)
    sounds = {
        "whole": whole,
        "quiet": 0.25 * whole,
        "cut": whole[2 * RATE_HZ : 6 * RATE_HZ],
        "begin": whole[: 5 * RATE_HZ],
        "end": whole[3 * RATE_HZ :],
        "other": scene(rng, 5.0),
        "silence": np.zeros(RATE_HZ, np.float32),
    }
    links = versions_of((name, fingerprint(samples, rate_hz=RATE_HZ)) for name, samples in sounds.items())
    pairs = {frozenset((link.file, link.other)): link for link in links}
    assert pairs[frozenset(("whole", "quiet"))].kind == "copy"
    cut = pairs[frozenset(("whole", "cut"))]
    assert cut.kind == "copy"
    sign = 1 if cut.file == "cut" else -1
    assert sign * cut.offset_s == pytest.approx(2.0, abs=0.05)
    assert pairs[frozenset(("end", "begin"))].kind == "part"
    assert len(pairs) == len(links)
    assert not any("other" in pair or "silence" in pair for pair in pairs)


def test_blocks_do_not_change_what_is_found(rng, monkeypatch):
    sounds = [scene(rng, 2.0) for _ in range(9)]
    prints = [(f"{n}", fingerprint(one, rate_hz=RATE_HZ)) for n, one in enumerate([*sounds, *sounds[::2]])]
    together = versions_of(prints)
    monkeypatch.setattr("clapkit.search.curating.versions._BLOCK", 2)
    apart = versions_of(prints)
    plain = [sorted((link.file, link.other)) for link in together]
    assert sorted(plain) == sorted(sorted((link.file, link.other)) for link in apart)
    assert sorted(plain) == sorted(sorted((str(n), str(9 + n // 2))) for n in range(0, 9, 2))


def test_equal_content_is_linked_to_the_first():
    found = same_contents(table_of(np.eye(4), ["x", "y", "x", "x"]))
    assert [(link.file, link.other, link.kind) for link in found] == [("f2", "f0", "same"), ("f3", "f0", "same")]


def test_alike_is_every_pair_above_the_cosine(rng):
    vectors = rng.standard_normal((14, 3))
    table = table_of(vectors, [str(n) for n in range(14)])
    cosines = table.vectors_FD.astype(np.float64) @ table.vectors_FD.T
    wanted = {(f"f{a}", f"f{b}") for a in range(14) for b in range(a + 1, 14) if cosines[a, b] >= 0.8}
    found = alike(table, above=0.8)
    assert {(link.file, link.other) for link in found} == wanted
    assert all(link.score == pytest.approx(cosines[int(link.file[1:]), int(link.other[1:])]) for link in found)
    assert alike(table_of([[1.0, 0]] * 2, ["x", "x"]), above=0.9) == []


def test_groups_are_what_is_linked_through_others():
    links = [
        Link("a", "b", "copy", 0.9),
        Link("d", "e", "alike", 0.99),
        Link("b", "c", "same", 1.0),
        Link("f", "e", "copy", 0.6),
        Link("x", "y", "copy", 0.5),
    ]
    groups = groups_of(links)
    assert [group.files for group in groups] == [("a", "b", "c"), ("d", "e", "f"), ("x", "y")]
    assert [link.kind for link in groups[0].links] == ["same", "copy"]
    assert groups_of([]) == []


def test_settings_out_of_range_are_named():
    with pytest.raises(SpecError, match=r"1\.7"):
        alike(table_of(np.eye(3), "abc"), above=1.7)
    sound = fingerprint(scene(np.random.default_rng(0), 2.0), rate_hz=RATE_HZ)
    with pytest.raises(SpecError, match=r"0\.0"):
        versions_of([("a", sound)], threshold=0.0)


def test_files_are_heard_in_order_and_bad_ones_named(tmp_path, rng):
    soundfile.write(tmp_path / "a.wav", scene(rng, 2.0), RATE_HZ)
    (tmp_path / "b.wav").write_bytes(b"no sound")
    names = [str(tmp_path / name) for name in ("a.wav", "b.wav", "gone.wav")]
    found = list(hear(names, workers=0))
    assert [name for name, _ in found] == names
    assert found[0][1].judgeable
    assert all(isinstance(heard, AudioError) for _, heard in found[1:])


def test_real_sound_encoded_again_and_cut(shared_data):
    """60 clips of ESC-50, each also as Ogg Vorbis and as 3 s of it: all are found, and no two recordings are joined."""
    with open(shared_data / "esc50" / "manifest.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["take"] == "A"][::25][:60]
    prints = []
    judged = set()
    for row in rows:
        sound = decode(str(shared_data / "esc50" / row["path"]))
        buffer = io.BytesIO()
        soundfile.write(buffer, sound.samples, sound.rate_hz, format="OGG", subtype="VORBIS")
        again = decode(buffer.getvalue())
        cut = sound.samples[sound.rate_hz : 4 * sound.rate_hz]
        made = {"": sound.samples, "ogg": again.samples, "cut": cut}
        three = {kind: fingerprint(samples, rate_hz=sound.rate_hz) for kind, samples in made.items()}
        prints += [(f"{row['freesound_id']} {kind}", one) for kind, one in three.items()]
        judged |= {f"{row['freesound_id']} {kind}" for kind, one in three.items() if three["cut"].judgeable}
    links = versions_of(prints)
    assert all(link.file.split()[0] == link.other.split()[0] for link in links)
    linked = {frozenset((link.file, link.other)) for link in links if link.kind == "copy"}
    wanted = [
        frozenset((f"{row['freesound_id']} ", f"{row['freesound_id']} {kind}"))
        for row in rows
        for kind in ("ogg", "cut")
        if f"{row['freesound_id']} cut" in judged
    ]
    assert len(wanted) > 80
    assert sum(pair in linked for pair in wanted) >= 0.98 * len(wanted)
