"""NSynth: single notes of instruments, asked for their family and for their pitch (Engel et al., ICML 2017)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from clapkit.data.clip import Clip
from clapkit.errors import DataError
from clapkit.evaluation.task import Expected, Layout, Read, Task
from clapkit.evaluation.tasks.listing import json_of, listed, names, present, refuse

# The eleventh family, synth_lead, has notes in the training set only.
FAMILIES = names("bass, brass, flute, guitar, keyboard, mallet, organ, reed, string, vocal")
_TONES = ("C", "C sharp", "D", "D sharp", "E", "F", "F sharp", "G", "G sharp", "A", "A sharp", "B")
_NEEDED = ("pitch", "instrument_str", "instrument_family_str")


def note_name(pitch: int) -> str:
    """A MIDI pitch in words: 60 -> "C 4"."""
    return f"{_TONES[pitch % 12]} {pitch // 12 - 1}"


def read_families(folder: Path) -> Read:
    """Notes labelled with the family of their instrument."""
    return _read(folder, lambda note: str(note["instrument_family_str"]))


def read_pitches(folder: Path) -> Read:
    """Notes labelled with their MIDI pitch."""
    return _read(folder, lambda note: str(note["pitch"]))


def _read(folder: Path, label: Callable[[dict[str, Any]], str]) -> Read:
    parts = [path for path in (folder, *(folder / f"nsynth-{split}" for split in ("train", "valid", "test")))
             if (path / "examples.json").is_file()]  # fmt: skip
    if not parts:
        refuse(folder, "the folder nsynth-test with examples.json and audio")
    return present(clip for part in parts for clip in _notes(folder, part, label))


def _notes(folder: Path, part: Path, label: Callable[[dict[str, Any]], str]) -> Iterator[Clip]:
    notes = json_of(part / "examples.json")
    if not isinstance(notes, dict):
        raise DataError(f"{part / 'examples.json'}: expected an object with an entry for each note")
    split = part.resolve().name.rpartition("-")[2]
    for name, note in notes.items():
        absent = [key for key in _NEEDED if not isinstance(note, dict) or key not in note]
        if absent:
            raise DataError(f"{part / 'examples.json'}: the note '{name}' has no {', '.join(absent)}")
        file = (part / "audio" / f"{name}.wav").relative_to(folder).as_posix()
        yield listed(folder, file, label=label(note), split=split, meta={"instrument_str": note["instrument_str"]})


_PAGE = "https://magenta.tensorflow.org/datasets/nsynth"
_FOLDERS = ("nsynth", "nsynth-test")

TASKS = (
    Task(
        name="nsynth-instrument",
        layout=Layout("nsynth-instrument", _FOLDERS, read_families, _PAGE, "CC BY 4.0"),
        domain="music",
        kind="classes",
        headline="accuracy",
        splits=("test",),
        prompts={
            "bass": "a bass",
            "brass": "a brass instrument",
            "flute": "a flute",
            "guitar": "a guitar",
            "keyboard": "a keyboard",
            "mallet": "a mallet instrument",
            "organ": "an organ",
            "reed": "a reed instrument",
            "string": "a string instrument",
            "vocal": "a human voice",
        },
        templates=("a single note played by {}",),
        recordings="instrument_str",
        expected=Expected(4096, FAMILIES, source=_PAGE),
    ),
    Task(
        name="nsynth-pitch",
        layout=Layout("nsynth-pitch", _FOLDERS, read_pitches, _PAGE, "CC BY 4.0"),
        domain="music",
        kind="classes",
        headline="accuracy",
        splits=("test",),
        prompts={str(pitch): note_name(pitch) for pitch in range(128)},
        templates=("a single musical note, {}",),
        recordings="instrument_str",
        expected=Expected(4096, source=_PAGE),
    ),
)
