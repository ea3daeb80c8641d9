"""What is typed, read: folders, labels, filters."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from clapkit.cli.inputs import find_sounds, read_columns, read_labels, read_sets, read_splits
from clapkit.errors import DataError, SpecError


def touch(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return str(path)


def link(path: Path, target: Path) -> None:
    try:
        path.symlink_to(target, target_is_directory=target.is_dir())
    except OSError:
        pytest.skip("this system or user cannot make links")


def test_folders_are_searched_for_sound_by_name(tmp_path):
    wanted = [touch(tmp_path / name) for name in ("a.wav", "b.MP3", "sub/c.flac", "sub/deep/d.webm", "ü ö.ogg")]
    for name in ("notes.txt", ".hidden.wav", ".git/e.wav", "sub/noext"):
        touch(tmp_path / name)
    found = find_sounds([tmp_path])
    assert sorted(found.files) == sorted(wanted)
    assert found.skipped == ()


def test_a_named_file_is_tried_whatever_its_name_and_only_once(tmp_path):
    odd, sound, gone = touch(tmp_path / "sound.dat"), touch(tmp_path / "a.wav"), str(tmp_path / "gone.wav")
    found = find_sounds([Path(odd), Path(sound), tmp_path, Path(gone)])
    assert found.files == (odd, sound, gone)


def test_a_folder_that_repeats_named_files_is_not_called_empty(tmp_path):
    sound = touch(tmp_path / "a.wav")
    assert find_sounds([Path(sound), tmp_path]).files == (sound,)


def test_all_folders_without_sound_are_named_at_once(tmp_path):
    touch(tmp_path / "one" / "readme.txt")
    (tmp_path / "two").mkdir()
    with pytest.raises(DataError, match="2 folder") as caught:
        find_sounds([tmp_path / "one", tmp_path / "two"])
    assert [problem.partition(":")[0][-3:] for problem in caught.value.problems] == ["one", "two"]


def test_links_are_followed_but_not_round_and_round(tmp_path):
    sound = touch(tmp_path / "in" / "a.wav")
    link(tmp_path / "in" / "loop", tmp_path / "in")
    link(tmp_path / "in" / "broken.wav", tmp_path / "nothing.wav")
    found = find_sounds([tmp_path / "in"])
    assert found.files == (sound,)
    assert [(Path(path).name, reason) for path, reason in found.skipped] == [
        ("broken.wav", "a broken link: what it points to does not exist")
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX permissions and pipes")
def test_what_cannot_be_read_is_reported(tmp_path):
    touch(tmp_path / "a.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0)
    skipped = dict(find_sounds([tmp_path]).skipped)
    locked.chmod(0o700)
    assert skipped.pop(str(tmp_path / "pipe.wav")) == "not a regular file"
    if os.geteuid() != 0:  # nothing is locked for root
        assert "cannot be read" in skipped[str(locked)]


def test_labels_from_words_and_from_a_file(tmp_path):
    listed = tmp_path / "labels.txt"
    listed.write_text("\ufeffdog\n\n cat \ndog\n", encoding="utf-8")
    assert read_labels("dog, cat,,dog", None) == ["dog", "cat"]
    assert read_labels(None, listed) == ["dog", "cat"]


def test_labels_that_are_missing_or_given_twice(tmp_path):
    for words in ((None, None), ("a", tmp_path / "b")):
        with pytest.raises(SpecError, match="--labels dog,cat,rain or --labels-file"):
            read_labels(*words)
    with pytest.raises(SpecError, match="no label in ' , '"):
        read_labels(" , ", None)
    with pytest.raises(DataError, match=r"gone\.txt"):
        read_labels(None, tmp_path / "gone.txt")


def test_pairs():
    assert read_splits(["split=a, b", "fold=1", "split=c"]) == {"split": ["a", "b", "c"], "fold": ["1"]}
    assert read_columns(["caption=title", "label="]) == {"caption": "title", "label": ""}
    assert read_sets(["train.steps=500", "model.text.name=a=b"]) == {"train.steps": "500", "model.text.name": "a=b"}


@pytest.mark.parametrize(
    ("read", "word"),
    [(read_splits, "split"), (read_splits, "split="), (read_columns, "=x"), (read_sets, "train.steps")],
)
def test_words_that_are_no_pair(read, word):
    with pytest.raises(SpecError, match=f"'{word}' cannot be read: expected --"):
        read([word])
