from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from clapkit.building.kinds import KINDS, NAMES, kind_named
from clapkit.building.soundworld import SPLITS, World, write_world
from clapkit.building.wording import WORDS, Spoken, captions, combination
from clapkit.errors import DataError, SpecError

WORLD = World(seed=3)
SMALL = {"train": 12, "test": 4, "test_scenes": 3, "test_combinations": 3, "test_kinds": 2}
NUMBERS = {1: ("once", "one", "a", "an"), 2: ("two", "twice"), 3: ("three",), 4: ("four",)}


@pytest.fixture(scope="module")
def drawn() -> dict[str, list]:
    """Clips of every split."""
    return {split: [WORLD.generate(i, split=split) for i in range(60 if split == "train" else 30)] for split in SPLITS}


def digest(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_clips_are_complete_and_sound(drawn):
    for clip in itertools.chain(*drawn.values()):
        assert clip.audio.shape == (4 * 32000,) and clip.audio.dtype == np.float32
        assert np.isfinite(clip.audio).all() and 0.003 < np.abs(clip.audio).max() <= 1.0
        assert len(clip.captions) == len(set(clip.captions)) == 5
        assert set(clip.tags) <= set(NAMES)
        assert {event.label for event in clip.events} == set(clip.tags)
        assert all(0 <= event.onset_s < event.offset_s <= 4.0 for event in clip.events)
    ids = [clip.id for clip in itertools.chain(*drawn.values())]
    assert len(set(ids)) == len(ids)


def test_a_clip_depends_on_seed_split_and_index_alone():
    again = World(seed=3).generate(7, split="test")
    for _ in range(2):
        clip = WORLD.generate(7, split="test")
        np.testing.assert_array_equal(clip.audio, again.audio)
        assert (clip.captions, clip.events, clip.meta) == (again.captions, again.events, again.meta)
    for other in (World(seed=4).generate(7, split="test"), WORLD.generate(7), WORLD.generate(7 + 38, split="test")):
        assert not np.array_equal(other.audio, again.audio)


def test_another_process_makes_the_same_samples():
    code = (
        "import hashlib; from clapkit.building.soundworld import World; "
        "print(*(hashlib.sha256(World(seed=3).generate(i).audio.tobytes()).hexdigest() for i in (5, 4)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert found == [hashlib.sha256(WORLD.generate(i).audio.tobytes()).hexdigest() for i in (5, 4)]


def test_torch_is_not_needed():
    code = "import sys; sys.modules['torch'] = None; import clapkit.building.soundworld"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_in_a_clean_world_there_is_sound_during_events_and_silence_outside():
    world = World(seed=1, clean=True)
    for split, index in itertools.product(("train", "test_scenes"), range(25)):
        clip = world.generate(index, split=split)
        during = np.zeros(len(clip.audio), bool)
        for event in clip.events:
            first, last = round(event.onset_s * 32000), round(event.offset_s * 32000)
            during[first:last] = True
            assert np.abs(clip.audio[first : first + 3200]).max() > 0
        assert not clip.audio[~during].any()


def test_sequences_are_in_the_order_of_their_tags_and_overlaps_overlap(drawn):
    orders = set()
    for clip in drawn["test_scenes"]:
        first, second = ([e for e in clip.events if e.label == tag] for tag in clip.tags)
        orders.add(clip.meta["order"])
        assert clip.label is None
        if clip.meta["order"] == "sequence":
            assert max(e.offset_s for e in first) <= min(e.onset_s for e in second)
        else:
            assert kind_named(clip.tags[1]).continuous
            assert all(second[0].onset_s < e.onset_s < second[0].offset_s for e in first)
    assert orders == {"sequence", "overlap"}


def test_captions_of_a_sequence_say_which_sound_is_first(drawn):
    for clip in (c for c in drawn["test_scenes"] if c.meta["order"] == "sequence"):
        for caption in clip.captions:
            spots = [_spot(caption, tag) for tag in clip.tags]
            turned = " after " in caption  # "B after A"
            assert (spots[0] > spots[1]) if turned else (spots[0] < spots[1]), caption


def _spot(caption: str, name: str) -> int:
    """Where a caption speaks of a kind: by its name, its plural, or its clause."""
    kind = kind_named(name)
    found = [caption.find(words) for words in (kind.name, kind.plural, kind.does, kind.doing) if words]
    spots = [spot for spot in found if spot >= 0]
    assert spots, f"{name!r} is not mentioned in {caption!r}"
    return min(spots)


def test_captions_of_single_sounds_mention_the_kind_and_every_stated_trait(drawn):
    for clip in (c for c in itertools.chain(*drawn.values()) if c.label):
        stated = {axis: clip.meta[axis] for axis in ("pitch", "loudness", "tempo", "length") if axis in clip.meta}
        for caption in clip.captions:
            _spot(caption, clip.label)
            for axis, value in stated.items():
                word = WORDS[value]
                assert word.axis == axis
                assert any(w in caption for w in (*word.adjectives, *word.adverbs)), caption
            if "count" in clip.meta:
                assert set(NUMBERS[clip.meta["count"]]) & set(caption.replace(",", "").split()), caption
                assert len(clip.events) == clip.meta["count"]


def test_captions_are_diverse(drawn):
    said = [caption for clip in drawn["train"] for caption in clip.captions]
    assert len(set(said)) > 0.85 * len(said)
    spoken = Spoken(kind_named("dog bark"), {"loudness": "quiet", "count": 3}, np.random.default_rng(0))
    many = {c for _ in range(40) for c in captions(spoken, count=5, rng=spoken.rng)}
    assert len(many) > 25
    assert {"quiet", "faint", "soft"} <= {word.strip(",") for caption in many for word in caption.split()}


@pytest.mark.parametrize(
    ("name", "traits", "expected"),
    [
        ("dog bark", {"count": 3, "loudness": "loud"}, {"three loud dog barks", "three noisy dog barks"}),
        ("owl hoot", {"count": 1}, {"an owl hoot", "one owl hoot", "a single owl hoot"}),
        ("siren", {}, {"a siren"}),
        ("alarm beep", {"tempo": "fast"}, {"fast alarm beeps", "rapid alarm beeps", "quick alarm beeps"}),
        ("footsteps", {"tempo": "slow"}, {"slow footsteps", "unhurried footsteps"}),
    ],
)
def test_noun_phrases_are_grammatical(name, traits, expected):
    spoken = Spoken(kind_named(name), traits, np.random.default_rng(1))
    assert expected <= {spoken.noun() for _ in range(60)}


def test_training_never_has_what_is_held_out():
    """Both in what is played and in what is said, over more clips than kinds times attributes."""
    held_out = set(WORLD.held_out_combinations)
    values, clips = {}, [WORLD.generate(i) for i in range(240)]
    for clip in clips:
        assert not set(clip.tags) & set(WORLD.held_out_kinds)
        if clip.label:
            stated = {str(v) for axis, v in clip.meta.items() if axis in ("pitch", "loudness", "tempo", "length")}
            assert not {(clip.label, value) for value in stated} & held_out
            for value in stated:
                values.setdefault(value, set()).add(clip.label)
        for caption in clip.captions:
            assert not any(combination(kind_named(n), v) in caption for n, v in held_out)
    assert set(values) == set(WORDS) and min(map(len, values.values())) >= 4  # each value occurs with other kinds


def test_held_out_splits_hold_exactly_what_is_held_out(drawn):
    combinations = {clip.meta["combination"] for clip in drawn["test_combinations"]}
    assert combinations == {combination(kind_named(n), v) for n, v in WORLD.held_out_combinations}
    assert {clip.label for clip in drawn["test_kinds"]} == set(WORLD.held_out_kinds)


def test_labels_are_the_candidates_of_each_split(drawn):
    for split in ("test", "test_kinds"):
        assert {clip.label for clip in drawn[split]} <= set(WORLD.labels(split))
    assert len(WORLD.labels("train")) == len(KINDS) - len(WORLD.held_out_kinds)
    one = World(held_out_combinations=(("dog bark", "fast"),))
    assert one.labels("test_combinations") == ("fast dog bark", "slow dog bark")
    assert one.generate(0, split="test_combinations").meta["tempo"] == "fast"


def test_the_share_of_scenes_is_as_stated():
    assert all(World(scene_share=0.0).generate(i).label for i in range(20))
    assert not any(World(scene_share=1.0).generate(i).label for i in range(20))


@pytest.mark.parametrize("rate_hz", [16000, 48000])
def test_other_rates_and_lengths(rate_hz):
    world = World(rate_hz=rate_hz, duration_s=5.0)
    for index in range(len(world.trained_kinds())):
        clip = world.generate(index, split="test")
        assert clip.audio.shape == (5 * rate_hz,) and np.isfinite(clip.audio).all()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"seed": -1}, "seed=-1"),
        ({"rate_hz": 8000}, "rate_hz=8000"),
        ({"duration_s": 1.0}, "duration_s=1.0"),
        ({"scene_share": 1.5}, "scene_share=1.5"),
        ({"captions_per_clip": 0}, "captions_per_clip=0"),
        ({"held_out_kinds": ("sirren",)}, "did you mean 'siren'"),
        ({"held_out_kinds": NAMES, "held_out_combinations": ()}, "leaves 0 kinds"),
        ({"held_out_combinations": (("rain", "loudd"),)}, "did you mean 'loud'"),
        ({"held_out_combinations": (("rain", "fast"),)}, "'fast' cannot be held out for 'rain'"),
        ({"held_out_combinations": (("hand clap", "fast"),)}, "'hand clap' is held out as a whole"),
    ],
)
def test_settings_that_do_not_exist_are_refused(settings, named):
    with pytest.raises(SpecError, match=named.replace("(", r"\(")):
        World(**settings)


def test_splits_and_clips_that_do_not_exist_are_refused():
    with pytest.raises(SpecError, match="no split 'tests'; did you mean 'test'"):
        WORLD.generate(0, split="tests")
    with pytest.raises(SpecError, match="no split 'val'"):
        WORLD.labels("val")
    with pytest.raises(SpecError, match="not -2"):
        WORLD.generate(-2)
    with pytest.raises(SpecError, match="held_out_kinds of the sound world is empty"):
        World(held_out_kinds=(), held_out_combinations=()).generate(0, split="test_kinds")


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return write_world(tmp_path_factory.mktemp("world") / "new", world=WORLD, **SMALL)


def test_the_manifest_describes_the_files(written):
    rows = [json.loads(line) for line in written.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == sum(SMALL.values())
    assert {row["split"]: sum(r["split"] == row["split"] for r in rows) for row in rows} == SMALL
    for row in rows:
        index = int(row["id"].rpartition("-")[2])
        clip = WORLD.generate(index, split=row["split"])
        audio, rate_hz = soundfile.read(written.parent / row["path"], dtype="float32")
        assert rate_hz == 32000 and soundfile.info(written.parent / row["path"]).subtype == "PCM_16"
        np.testing.assert_allclose(audio, clip.audio, atol=1.01 / 32768)
        assert row["captions"] == list(clip.captions) and row["tags"] == list(clip.tags)
        assert row.get("label") == clip.label and ("label" in row) == (len(row["tags"]) == 1)
        assert [tuple(e.values()) for e in row["events"]] == [(e.label, e.onset_s, e.offset_s) for e in clip.events]
        assert {key: row[key] for key in clip.meta} == dict(clip.meta)


def test_two_processes_write_the_same_bytes_as_one(written, tmp_path):
    seen = []
    again = write_world(
        tmp_path / "again", world=WORLD, processes=2, progress=lambda done, total: seen.append((done, total)), **SMALL
    )
    assert digest(again.parent) == digest(written.parent)
    assert seen == [(n + 1, 24) for n in range(24)]


def test_wav_on_request_and_nothing_but_flac_and_wav(tmp_path):
    sizes = dict.fromkeys(SMALL, 0) | {"train": 1}
    manifest = write_world(tmp_path / "w", audio_format="wav", **sizes)
    assert soundfile.info(manifest.parent / "audio/train/train-00000.wav").format == "WAV"
    with pytest.raises(SpecError, match="audio_format='mp3'"):
        write_world(tmp_path / "m", audio_format="mp3", **sizes)


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="exists and is not an empty folder"):
        write_world(tmp_path, **SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_interrupted_writing_leaves_nothing_behind(tmp_path):
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_world(tmp_path / "world", progress=stop, **SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="permissions of folders are a matter of POSIX")
def test_a_world_is_as_open_as_other_folders(tmp_path):
    (tmp_path / "other").mkdir()
    write_world(tmp_path / "world", train=1, test=1, test_scenes=0, test_combinations=0, test_kinds=0)
    assert (tmp_path / "world").stat().st_mode == (tmp_path / "other").stat().st_mode
