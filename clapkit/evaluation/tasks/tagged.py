"""Sounds with several tags each: MagnaTagATune and DCASE 2017 task 4."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clapkit.data.clip import Clip, Event
from clapkit.errors import DataError
from clapkit.evaluation.task import Expected, Layout, Read, Task
from clapkit.evaluation.tasks.listing import listed, names, present, read_rows, refuse, seconds
from clapkit.evaluation.tasks.youtube import by_stem

TOP_50 = names(
    "guitar, classical, slow, techno, strings, drums, electronic, rock, fast, piano, ambient, beat, violin, vocal",
    "synth, female, indian, opera, male, singing, vocals, no vocals, harpsichord, loud, quiet, flute, woman",
    "male vocal, no vocal, pop, soft, sitar, solo, man, classic, choir, voice, new age, dance, male voice",
    "female vocal, beats, harp, cello, no voice, weird, country, metal, female voice, choral",
)
SMART_CARS = (
    "Train horn",
    "Air horn, truck horn",
    "Car alarm",
    "Reversing beeps",
    "Bicycle",
    "Skateboard",
    "Ambulance (siren)",
    "Fire engine, fire truck (siren)",
    "Civil defense siren",
    "Police car (siren)",
    "Screaming",
    "Car",
    "Car passing by",
    "Bus",
    "Truck",
    "Motorcycle",
    "Train",
)
_FOLDER_SPLITS = {**dict.fromkeys("0123456789ab", "train"), "c": "valid", **dict.fromkeys("def", "test")}


def read_magnatagatune(folder: Path) -> Read:
    """MagnaTagATune: annotations_final.csv (tabs; clip_id, a column of 0 and 1 for each of 188 tags, mp3_path).

    mp3_path is "f/ARTIST-ALBUM-NUMBER-TITLE-START-END.mp3"; its first letter, of sixteen folders, makes the split:
    0 to b train, c valid, d to f test. The folders are in the data folder, or in its `mp3`. Only the 50 most frequent
    tags count, and as in all published results clips that have none of them are left out. Synonyms are not merged.
    `meta["recording"]` is the track: its clips sound alike.
    """
    rows = read_rows(folder / "annotations_final.csv", ("clip_id", *TOP_50, "mp3_path"), delimiter="\t")
    below = "mp3/" if (folder / "mp3").is_dir() else ""
    clips = []
    for row in rows:
        tags = tuple(tag for tag in TOP_50 if row[tag] == "1")
        split = _FOLDER_SPLITS.get(row["mp3_path"][:1])
        if split is None or row["mp3_path"][1:2] != "/":
            problem = f"found the mp3_path '{row['mp3_path']}', expected one that starts with a folder 0/ to f/"
            raise DataError(f"{folder / 'annotations_final.csv'}: {problem}")
        if tags:
            track = row["mp3_path"].removesuffix(".mp3").rsplit("-", 2)[0]
            clips.append(listed(folder, below + row["mp3_path"], tags=tags, split=split, meta={"recording": track}))
    return present(clips)


def read_smart_cars(folder: Path) -> Read:
    """DCASE 2017 task 4: groundtruth_weak_label_{testing,evaluation}_set.csv, in the folder, in its groundtruth_release
    or in its metadata, without a header: file, start, end and label between tabs, a row a label.

    Events are read from the "strong" file of the same name where it is there: onset and offset in seconds of the clip.
    Rows of 0 to 0 stand for what the annotators did not hear, and are no events (the tag stays). A sound "ID_START_END"
    is called "YID_START_END" on disk, as tools take a name that begins with "-" for an option; both are found.
    """
    clips: list[Clip] = []
    for split in ("testing", "evaluation"):
        name = f"groundtruth_weak_label_{split}_set.csv"
        tables = [folder / place / name for place in ("", "groundtruth_release", "metadata")]
        table = next((path for path in tables if path.is_file()), None)
        if table is None:
            continue
        rows = read_rows(table, ("file", "start", "end", "label"), delimiter="\t", header=False)
        tags: dict[str, list[str]] = {}
        for row in rows:
            tags.setdefault(row["file"], []).append(row["label"])
        events = _events(table.with_name(name.replace("weak", "strong")))
        files = by_stem(folder, (split,))
        for file, labels in tags.items():
            stem = file.removesuffix(".wav")
            path = files.get(f"Y{stem}") or files.get(stem) or folder / f"{stem}.absent"
            known: dict[str, Any] = {
                "tags": tuple(dict.fromkeys(labels)),
                "split": split,
                "events": tuple(events.get(file, ())),
            }
            clips.append(Clip(id=file, audio=str(path), **known))
    if not clips:
        refuse(folder, "groundtruth_weak_label_evaluation_set.csv with the sounds")
    return present(clips)


def _events(table: Path) -> dict[str, list[Event]]:
    found: dict[str, list[Event]] = {}
    if table.is_file():
        for row in read_rows(table, ("file", "onset", "offset", "label"), delimiter="\t", header=False):
            onset_s, offset_s = seconds(row["onset"], table), seconds(row["offset"], table)
            if offset_s > onset_s:
                found.setdefault(row["file"], []).append(Event(row["label"], onset_s, offset_s))
    return found


_MTAT = (
    "http://mirg.city.ac.uk/codeapps/the-magnatagatune-dataset and https://github.com/keunwoochoi/magnatagatune-list"
)
_SMART_CARS = (
    "https://github.com/ankitshah009/Task-4-Large-scale-weakly-supervised-sound-event-detection-for-smart-cars"
)

magnatagatune = Task(
    name="magnatagatune",
    layout=Layout("magnatagatune", ("MagnaTagATune", "mtat", "mtt"), read_magnatagatune, _MTAT, "CC BY-NC-SA 3.0"),
    domain="music",
    kind="tags",
    headline="map",
    splits=("test",),
    templates=("this music is {}",),
    recordings="recording",
    expected=Expected(
        classes=TOP_50,
        source="the tags of https://github.com/jongpillee/music_dataset_split; counts differ between papers",
    ),
)
dcase17_task4 = Task(
    name="dcase17-task4",
    layout=Layout("dcase17-task4", ("dcase17-task4", "dcase2017-task4"), read_smart_cars, _SMART_CARS, "as AudioSet's"),
    domain="sound",
    kind="tags",
    headline="map",
    splits=("evaluation",),
    prompts={name: name.lower() for name in SMART_CARS},
    expected=Expected(
        1103, SMART_CARS, source="https://github.com/qiuqiangkong/sound_event_detection_dcase2017_task4, 1,103 sounds"
    ),
)

TASKS = (magnatagatune, dcase17_task4)
