"""Sounds whose events have times: DESED and URBAN-SED. A clip's tags are the labels of its events."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from clapkit.data.clip import Clip, Event
from clapkit.evaluation.task import Expected, Layout, Read, Task
from clapkit.evaluation.tasks.listing import listed, names, present, read_rows, refuse, seconds

HOME = {
    "Alarm_bell_ringing": "an alarm or a bell ringing",
    "Blender": "a blender",
    "Cat": "a cat",
    "Dishes": "dishes",
    "Dog": "a dog",
    "Electric_shaver_toothbrush": "an electric shaver or toothbrush",
    "Frying": "frying",
    "Running_water": "running water",
    "Speech": "speech",
    "Vacuum_cleaner": "a vacuum cleaner",
}
STREET = names(
    "air_conditioner, car_horn, children_playing, dog_bark, drilling, engine_idling, gun_shot, jackhammer, siren",
    "street_music",
)
_DESED_LISTS = {"public": "eval/public", "validation": "validation/validation"}


def read_desed(folder: Path) -> Read:
    """DESED: metadata/eval/public.tsv with audio/eval/public, and metadata/validation/validation.tsv with
    audio/validation (or audio/validation/validation), whichever is there, in the folder or in its `dataset`.

    Columns filename, onset, offset, event_label, in seconds of the clip; a row without times is a clip with no event.
    """
    root = folder / "dataset" if (folder / "dataset" / "metadata").is_dir() else folder
    clips: list[Clip] = []
    for split, where in _DESED_LISTS.items():
        table = root / "metadata" / f"{where}.tsv"
        if not table.is_file():
            continue
        events: dict[str, list[Event]] = {}
        for row in read_rows(table, ("filename", "onset", "offset", "event_label"), delimiter="\t"):
            held = events.setdefault(row["filename"], [])
            if row["onset"] and row["event_label"]:
                held.append(Event(row["event_label"], seconds(row["onset"], table), seconds(row["offset"], table)))
        below = where if (root / "audio" / where).is_dir() else where.split("/")[0]
        clips += [_heard(root, f"audio/{below}/{name}", split, of_it) for name, of_it in events.items()]
    if not clips:
        refuse(folder, "metadata/eval/public.tsv with the folder audio/eval/public")
    return present(clips)


def read_urban_sed(folder: Path) -> Read:
    """URBAN-SED 2: annotations/{train,validate,test}/NAME.txt, and audio/{train,validate,test}/NAME.wav.

    A line is onset, offset and label between tabs, without a header; an empty file is a soundscape with no event.
    """
    clips: list[Clip] = []
    for split in ("train", "validate", "test"):
        for table in sorted((folder / "annotations" / split).glob("*.txt")):
            rows = read_rows(table, ("onset", "offset", "label"), delimiter="\t", header=False)
            events = [Event(r["label"], seconds(r["onset"], table), seconds(r["offset"], table)) for r in rows]
            clips.append(_heard(folder, f"audio/{split}/{table.stem}.wav", split, events))
    if not clips:
        refuse(folder, "annotations/test with a .txt for each sound of audio/test")
    return present(clips)


def _heard(folder: Path, name: str, split: str, events: Iterable[Event]) -> Clip:
    held = tuple(sorted(events, key=lambda event: (event.onset_s, event.offset_s, event.label)))
    return listed(folder, name, events=held, tags=tuple(sorted({event.label for event in held})), split=split)


_DESED = "https://github.com/turpaultn/DESED"
_URBAN_SED = "https://zenodo.org/records/1324404"


def _desed(name: str, split: str, clips: int) -> Task:
    return Task(
        name=name,
        layout=Layout("desed", ("DESED", "DESED_public_eval"), read_desed, _DESED, "see the licence files of the data"),
        domain="sound",
        kind="tags",
        headline="map",
        splits=(split,),
        prompts=HOME,
        expected=Expected(clips, tuple(HOME), source=f"{_DESED}, README"),
    )


desed = _desed("desed", "public", 692)
desed_validation = _desed("desed-validation", "validation", 1168)
urban_sed = Task(
    name="urban-sed",
    layout=Layout("urban-sed", ("URBAN-SED", "URBAN-SED_v2.0.0"), read_urban_sed, _URBAN_SED, "CC BY 4.0"),
    domain="sound",
    kind="tags",
    headline="map",
    splits=("test",),
    prompts={name: name.replace("_", " ") for name in STREET},
    expected=Expected(2000, STREET, source=f"{_URBAN_SED}, 6,000 / 2,000 / 2,000 soundscapes"),
)

TASKS = (desed, desed_validation, urban_sed)
