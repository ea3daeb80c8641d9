"""What a library is made from, listed: folders, files, manifests, and what cannot be seen now."""

from __future__ import annotations

import json
import os

import pytest

from clapkit.errors import DataError
from clapkit.search.indexing.sources import About, hint_of_manifest, is_below, list_sources, source_of


def names(listing):
    return sorted(found.file.rsplit("/", 1)[-1] for found in listing.found)


def manifest(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return source_of(path)


def test_sources_have_whole_names_from_wherever_they_are_named(sounds, monkeypatch):
    monkeypatch.chdir(sounds.parent)
    assert source_of("sounds") == source_of(sounds) == source_of(sounds / "sub" / "..") == sounds.as_posix()
    with pytest.raises(DataError, match=r"s3://bucket/sounds cannot be indexed"):
        source_of("s3://bucket/sounds")


def test_folders_files_and_manifests_together_hold_each_file_once(sounds, tmp_path):
    (tmp_path / "odd.name").write_bytes(b"a file that is named is tried")
    table = manifest(
        sounds / "told.jsonl", [{"path": "s0.wav", "label": "dog"}, {"path": "../odd.name", "tags": ["x"]}]
    )
    places = [source_of(sounds), source_of(sounds / "s2.wav"), source_of(tmp_path / "odd.name"), table]
    listing = list_sources(places)
    assert names(listing) == ["odd.name", *(f"s{n}.wav" for n in range(6))]
    assert listing.about == {
        (sounds / "s0.wav").as_posix(): About((), {"label": "dog"}),
        (tmp_path / "odd.name").as_posix(): About(("x",), {}),
    }
    assert listing.away == listing.skipped == listing.notes == []
    by_name = {found.file: found for found in listing.found}
    state = os.stat(sounds / "s0.wav")
    found = by_name[(sounds / "s0.wav").as_posix()]
    assert (found.mtime_s, found.size_bytes) == (state.st_mtime, state.st_size)


def test_all_rows_of_a_file_tell_of_it_together(sounds):
    rows = [
        {"path": "s0.wav", "id": "1", "label": "dog", "tags": ["loud"], "caption": "a dog barks", "license": "CC0"},
        {"path": "s0.wav", "id": "2", "label": "cat", "tags": ["loud", "near"], "start_s": 1, "room": "kitchen"},
        {"path": "s2.wav", "id": "3", "label": "cow", "caption": "a cow", "split": "test", "rating": 4.5, "none": None},
    ]
    listing = list_sources([manifest(sounds / "m.jsonl", rows)])
    first, second = (listing.about[(sounds / name).as_posix()] for name in ("s0.wav", "s2.wav"))
    assert first.tags == ("loud", "near", "dog", "cat")
    assert first.metadata == {"licence": "CC0", "room": "kitchen", "caption": "a dog barks"}
    assert second == About((), {"label": "cow", "caption": "a cow", "split": "test", "rating": 4.5})
    assert "1 rows name a part of a file" in listing.notes[0]


def test_columns_of_a_manifest_may_have_other_names(sounds):
    (sounds / "m.csv").write_text("where,what\ns0.wav,a;b\n", encoding="utf-8")
    listing = list_sources([source_of(sounds / "m.csv")], columns={"audio": "where", "tags": "what[;]"})
    assert listing.about[(sounds / "s0.wav").as_posix()].tags == ("a", "b")


def test_what_is_not_there_and_what_is_empty_is_away_and_its_files_are_kept(sounds, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("none", encoding="utf-8")
    gone, empty = source_of(tmp_path / "gone"), source_of(tmp_path / "empty")
    listing = list_sources([source_of(sounds), gone, empty])
    assert [source for source, _ in listing.away] == [gone, empty]
    assert "not there" in listing.away[0][1] and ".wav" in listing.away[1][1]
    assert listing.keeps(f"{gone}/a.wav") and listing.keeps(f"{empty}/deep/a.wav")
    assert not listing.keeps(f"{gone}er/a.wav") and not listing.keeps(f"{source_of(sounds)}/gone.wav")
    assert list_sources([source_of(sounds), f"{gone}.csv"]).keeps(
        f"{source_of(sounds)}/gone.wav"
    )  # it may have named it


def test_what_cannot_be_read_is_skipped_and_kept(sounds):
    try:
        (sounds / "broken.wav").symlink_to(sounds / "nothing.wav")
    except OSError:
        pytest.skip("this system or user cannot make links")
    listing = list_sources([source_of(sounds)])
    assert [(path.rsplit("/", 1)[-1], reason[:13]) for path, reason in listing.skipped] == [
        ("broken.wav", "a broken link")
    ]
    assert listing.keeps((sounds / "broken.wav").as_posix())


def test_manifests_that_cannot_be_used_are_refused(sounds):
    (sounds / "m.csv").write_text("label\ndog\n", encoding="utf-8")
    with pytest.raises(DataError, match="no column says where the sound is"):
        list_sources([source_of(sounds / "m.csv")])


def test_a_manifest_beside_the_sounds_is_pointed_at(sounds):
    assert hint_of_manifest(sounds.as_posix()) is None
    (sounds / "manifest.csv").write_text("path\ns0.wav\n", encoding="utf-8")
    assert hint_of_manifest(sounds.as_posix()) == (sounds / "manifest.csv").as_posix()


def test_below():
    assert is_below("/a/b", "/a/b") and is_below("/a/b/c", "/a/b") and is_below("/a", "/")
    assert not is_below("/a/bc", "/a/b")
