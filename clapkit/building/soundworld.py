"""A world of procedural sound: endless captioned clips without a licence, a download or a recording.

    world = World(seed=0)
    clip = world.generate(17, split="train")     # a Clip: samples, captions, label, exact event times
    write_world("world", train=1500, test=300)   # sound files and manifest.jsonl

Every clip follows from (seed, split, index) alone, in whatever order and process it is made. Most clips hold one kind
of sound, whose stated attributes (pitch, loudness, tempo, length, count) can be heard; the others hold two, one after
the other or one in front of the other. Some kinds, and some combinations of kind and attribute, are never trained on.

Splits: "train"; "test", single sounds of trained kinds; "test_scenes", two sounds each; "test_combinations", trained
kinds with an attribute that they never had in training; "test_kinds", kinds that training never met.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from clapkit.building.composition import Composer, Draft
from clapkit.building.kinds import KINDS, Kind, kind_named
from clapkit.building.performance import in_a_room
from clapkit.building.wording import WORDS, combination
from clapkit.data.clip import Clip
from clapkit.errors import DataError, SpecError, nearest_name

SPLITS = ("train", "test", "test_scenes", "test_combinations", "test_kinds")

_HELD_OUT_KINDS = ("sheep bleat", "bicycle bell", "hand clap", "running stream")
# Both values of an axis are held out together: the alternatives among which an evaluation chooses are then all unseen.
_HELD_OUT_COMBINATIONS = (
    ("dog bark", "low-pitched"),
    ("dog bark", "high-pitched"),
    ("car horn", "low-pitched"),
    ("car horn", "high-pitched"),
    ("door knock", "slow"),
    ("door knock", "fast"),
    ("alarm beep", "slow"),
    ("alarm beep", "fast"),
    ("church bell", "quiet"),
    ("church bell", "loud"),
    ("rain", "quiet"),
    ("rain", "loud"),
)


@dataclass(frozen=True)
class World:
    """The settings of a sound world.

    scene_share              share of the training clips that hold two sounds
    captions_per_clip        sentences for each clip, all different
    held_out_kinds           labels that occur in the split "test_kinds" only
    held_out_combinations    (label, attribute value) pairs that occur in the split "test_combinations" only
    clean                    no room, colour or hiss: silence is zeros and event times are exact to the sample

    Raises SpecError for labels, values or sizes that do not exist.
    """

    seed: int = 0
    rate_hz: int = 32000
    duration_s: float = 4.0
    scene_share: float = 0.3
    captions_per_clip: int = 5
    held_out_kinds: tuple[str, ...] = _HELD_OUT_KINDS
    held_out_combinations: tuple[tuple[str, str], ...] = _HELD_OUT_COMBINATIONS
    clean: bool = False

    def __post_init__(self) -> None:
        for name, low, high in (
            ("seed", 0, 2**63),
            ("rate_hz", 16000, 96000),
            ("duration_s", 3.0, 30.0),
            ("scene_share", 0.0, 1.0),
            ("captions_per_clip", 1, 7),
        ):
            if not low <= getattr(self, name) <= high:
                raise SpecError(f"{name}={getattr(self, name)} of the sound world must lie between {low} and {high}")
        for name in self.held_out_kinds:
            kind_named(name)
        for name, value in self.held_out_combinations:
            _check_combination(kind_named(name), value, self.held_out_kinds)
        left = self.trained_kinds()
        if len(left) < 2 or not any(kind.continuous for kind in left):
            raise SpecError(
                f"held_out_kinds leaves {len(left)} kinds for training: scenes need two, one of them continuous"
            )

    def trained_kinds(self) -> tuple[Kind, ...]:
        """The kinds that occur in training."""
        return tuple(kind for kind in KINDS if kind.name not in self.held_out_kinds)

    def labels(self, split: str) -> tuple[str, ...]:
        """The class names to choose among in a zero-shot evaluation of `split`.

        Kinds for most splits. For "test_combinations" these are the held-out combinations and their opposites
        ("high-pitched dog bark", "low-pitched dog bark", ...), the values of the column `combination`.
        """
        _check_split(split)
        if split == "test_kinds":
            return self.held_out_kinds
        if split != "test_combinations":
            return tuple(kind.name for kind in self.trained_kinds())
        pairs = [(kind_named(name), value) for name, value in self.held_out_combinations]
        phrases = [combination(kind, v) for kind, value in pairs for v in (value, WORDS[value].opposite)]
        return tuple(dict.fromkeys(phrases))

    def generate(self, index: int, *, split: str = "train") -> Clip:
        """Clip number `index` of a split: `audio` is float32 [N] within [-1, 1].

        `label` is the kind (None for two sounds, see `tags`); `events` has one entry for each stroke; `meta` has the
        stated attributes: kind, pitch, loudness, tempo, length, count, combination, order ("sequence" or "overlap",
        with the sounds named in this order by `tags`). Attributes that are not stated are absent.
        """
        _check_split(split)
        if index < 0:
            raise SpecError(f"clips are numbered from 0, not {index}")
        rng = np.random.default_rng((self.seed, SPLITS.index(split), index))
        draft = self._draft(index, split, rng)
        audio = draft.pop("audio")
        if not self.clean:
            audio = in_a_room(audio, rate_hz=self.rate_hz, rng=rng)
        return Clip(id=f"{split}-{index:05d}", audio=audio, duration_s=self.duration_s, split=split, **draft)

    def _draft(self, index: int, split: str, rng: np.random.Generator) -> Draft:
        composer = Composer(self.rate_hz, self.duration_s, self.captions_per_clip, rng, self._may)
        if split == "test_scenes" or (split == "train" and rng.random() < self.scene_share):
            compose = composer.sequence if rng.random() < 0.5 else composer.overlap
            return compose(self.trained_kinds())
        if split == "test_combinations":
            name, value = _in_turn(self.held_out_combinations, index, "held_out_combinations")
            return composer.single(kind_named(name), {WORDS[value].axis: value})
        pool = tuple(map(kind_named, self.held_out_kinds)) if split == "test_kinds" else self.trained_kinds()
        kind = _in_turn(pool, index, "held_out_kinds")
        return composer.single(kind, composer.any_traits(kind))

    def _may(self, kind: Kind, value: str) -> bool:
        return (kind.name, value) not in self.held_out_combinations


def write_world(
    folder: str | os.PathLike[str],
    *,
    world: World | None = None,
    train: int = 1500,
    test: int = 200,
    test_scenes: int = 100,
    test_combinations: int = 120,
    test_kinds: int = 80,
    audio_format: str = "flac",
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a sound world into a new folder: 16-bit sound files by split, and `manifest.jsonl`, whose path is returned.

    Each line has path, id, captions, label (single sounds), tags, split, duration_s, events (label, onset_s, offset_s)
    and the stated attributes of `World.generate`; what is not stated is absent. The same settings give the same bytes.
    The folder appears only when all of it is written. `progress(done, total)` is called after each clip.

    Raises DataError if the folder exists and is not empty, SpecError for settings that do not exist.
    """
    folder, world = Path(folder), world or World()
    if audio_format not in ("flac", "wav"):
        raise SpecError(f"audio_format='{audio_format}' of the sound world must be 'flac' or 'wav'")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} exists and is not an empty folder: remove it, or name another for the sound world")
    sizes = dict(zip(SPLITS, (train, test, test_scenes, test_combinations, test_kinds), strict=True))
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile.mkdtemp: its folders are closed to other users, and this one becomes the world itself.
    unfinished = folder.parent / f".{folder.name}-{uuid.uuid4().hex[:8]}"
    unfinished.mkdir()
    try:
        for split in SPLITS:
            (unfinished / "audio" / split).mkdir(parents=True)
        jobs = [(world, unfinished, split, i, audio_format) for split, size in sizes.items() for i in range(size)]
        rows = []
        for row in _done(jobs, processes):
            rows.append(json.dumps(row))
            if progress is not None:
                progress(len(rows), len(jobs))
        (unfinished / "manifest.jsonl").write_text("".join(row + "\n" for row in rows), encoding="utf-8", newline="\n")
        if folder.exists():
            folder.rmdir()
        os.replace(unfinished, folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return folder / "manifest.jsonl"


def _done(jobs: list[tuple], processes: int) -> Iterator[dict[str, Any]]:
    """The rows of all jobs in their order."""
    if processes <= 1:
        yield from map(_write_clip, jobs)
        return
    # Spawned, not forked: the caller may hold threads (torch, a progress bar) that do not survive a fork.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_write_clip, jobs, chunksize=16)


def _write_clip(job: tuple[World, Path, str, int, str]) -> dict[str, Any]:
    """Write one sound file; its row of the manifest."""
    world, folder, split, index, audio_format = job
    clip = world.generate(index, split=split)
    path = f"audio/{split}/{clip.id}.{audio_format}"
    soundfile.write(folder / path, clip.audio, world.rate_hz, subtype="PCM_16")
    row = {
        "path": path,
        "id": clip.id,
        "captions": clip.captions,
        "label": clip.label,
        "tags": clip.tags,
        "split": split,
        "duration_s": clip.duration_s,
        "events": [vars(event) for event in clip.events],
        **clip.meta,
    }
    return {key: value for key, value in row.items() if value is not None}


def _in_turn(pool: tuple, index: int, setting: str) -> Any:
    if not pool:
        raise SpecError(f"this split is empty because {setting} of the sound world is empty: name some there")
    return pool[index % len(pool)]


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise SpecError(f"the sound world has no split '{split}'; {nearest_name(split, SPLITS)}")


def _check_combination(kind: Kind, value: str, held_out_kinds: tuple[str, ...]) -> None:
    if value not in WORDS:
        raise SpecError(f"no attribute has the value '{value}'; {nearest_name(value, tuple(WORDS))}")
    axis = WORDS[value].axis
    if axis != "loudness" and axis not in kind.axes:
        raise SpecError(
            f"'{value}' cannot be held out for '{kind.name}': its {axis} is never stated. "
            f"Audible in it: {', '.join(('loudness', *kind.axes))}"
        )
    if kind.name in held_out_kinds:
        raise SpecError(f"'{kind.name}' is held out as a whole: take it out of one of the two lists of held-out things")
