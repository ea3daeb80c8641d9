"""The seam of tasks: finding a folder, what is scored of it, and what differs from what was published."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest

from clapkit.data.clip import Clip
from clapkit.errors import DataError
from clapkit.evaluation.task import Expected, Layout, Read, Task, digest_of

UNSAID = Expected()
CLIPS = (
    Clip("a/1.wav", "a/1.wav", label="dog", split="test", tags=("dog", "bark"), captions=("a dog barks",)),
    Clip("a/2.wav", "a/2.wav", label="cat", split="test", tags=("cat",), captions=("a cat",)),
    Clip("a/3.wav", "a/3.wav", label="cat", split="train", tags=("cat",), captions=("a cat again",)),
)


def task(clips=CLIPS, *, missing=(), kind="classes", expected=UNSAID, splits=("test",), lost=None):
    found = Read(tuple(clips), tuple(missing), lost or {})
    layout = Layout("pets", ("My-Pets", "pets v2"), lambda folder: found, "their page", "CC0")
    return Task("pets", layout, "animals", kind, "accuracy", splits=splits, expected=expected)


@pytest.mark.parametrize("name", ["My-Pets", "my_pets", "MYPETS", "Pets_V2", "pets-v2"])
def test_a_folder_is_found_by_any_spelling_and_may_be_the_root(name, tmp_path):
    (tmp_path / "others").mkdir()
    folder = tmp_path / name
    folder.mkdir()
    layout = task().layout
    assert layout.find(tmp_path) == folder == layout.find(folder)
    assert layout.find(tmp_path / "others") is None and layout.find(tmp_path / "nowhere") is None


def test_no_folder_is_told_with_the_names_it_may_have(tmp_path):
    with pytest.raises(DataError, match=r"no data for the task 'pets'.*My-Pets or pets v2 \(their page\)"):
        task().open(tmp_path)


def opened(tmp_path: Path, asked: Task):
    (tmp_path / "mypets").mkdir(exist_ok=True)
    return asked.open(tmp_path)


def test_only_the_splits_of_the_task_are_scored(tmp_path):
    assert [clip.id for clip in opened(tmp_path, task()).clips] == ["a/1.wav", "a/2.wav"]
    everything = opened(tmp_path, task(splits=()))
    assert len(everything.clips) == 3 and everything.standard and everything.classes == ("cat", "dog")


def test_nothing_to_score_is_an_error_that_counts_what_was_there(tmp_path):
    with pytest.raises(
        DataError, match=r"none of 3 clips .*: 0 are of the splits valid, .*found are the splits test, train \(1 files"
    ):
        opened(tmp_path, task(splits=("valid",), missing=["9.wav"]))


def test_each_difference_is_told_and_makes_the_score_not_standard(tmp_path):
    right = Expected(2, ("dog", "cat"), digest_of(CLIPS[:2], "classes"))
    found = opened(tmp_path, task(expected=right))
    assert found.standard and found.classes == ("dog", "cat")  # in the published order
    cases = {
        "2 clips, published are 7 (some are gone)": dataclasses.replace(right, clips=7, note="some are gone"),
        "1 classes that were not published: dog": dataclasses.replace(right, classes=("cat",)),
        "1 classes without a clip: cow": dataclasses.replace(right, classes=("cow", "dog", "cat")),
        "the same number of clips, but other names or labels than published": dataclasses.replace(right, digest="0"),
    }
    for words, expected in cases.items():
        found = opened(tmp_path, task(expected=expected))
        assert any(difference.startswith(words) for difference in found.differences), (words, found.differences)
        assert not found.standard


def test_clips_that_say_nothing_are_left_out_and_named(tmp_path):
    silent = (*CLIPS, Clip("a/4.wav", "a/4.wav", split="test"))
    found = opened(tmp_path, task(silent))
    assert len(found.clips) == 2 and found.differences == ("1 clips without classes: a/4.wav",)
    assert opened(tmp_path, task(silent, kind="captions")).differences == ("1 clips without captions: a/4.wav",)


def test_missing_files_count_where_they_are_scored(tmp_path):
    lost = {"8.wav": "train", "9.wav": "test", "10.wav": None}
    found = opened(tmp_path, task(missing=list(lost), lost=lost))
    assert found.differences == ("2 files of the list are missing: 9.wav, 10.wav",)
    assert opened(tmp_path, task(missing=["8.wav"], lost=lost)).standard
    assert not opened(tmp_path, task(missing=["8.wav"], lost=lost, splits=())).standard
    many = opened(tmp_path, task(missing=[f"{n}.wav" for n in range(9)])).differences[0]
    assert many == "9 files of the list are missing: 0.wav, 1.wav, 2.wav, 3.wav, 4.wav and 4 more"


@pytest.mark.parametrize(
    ("kind", "rows"),
    [("classes", "1\tdog\n2\tcat"), ("tags", "1\tbark\tdog\n2\tcat"), ("captions", "1\ta dog barks\n2\ta cat")],
)
def test_digest_is_that_of_sorted_names_and_answers_in_any_order_and_format(kind, rows):
    wanted = hashlib.sha256(rows.encode()).hexdigest()
    assert digest_of(CLIPS[:2], kind) == wanted == digest_of(CLIPS[1::-1], kind)
    assert digest_of([clip.with_(id=clip.id.replace(".wav", ".flac")) for clip in CLIPS[:2]], kind) == wanted
    assert digest_of([CLIPS[0].with_(label="cat", tags=("x",), captions=("y",)), CLIPS[1]], kind) != wanted
