"""AudioSet: the evaluation segments with their tags, and those whose events have times."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from clapkit.data.clip import Clip, Event
from clapkit.errors import DataError
from clapkit.evaluation.task import Expected, Layout, Read, Task
from clapkit.evaluation.tasks.listing import names, present, read_rows, seconds, text_of
from clapkit.evaluation.tasks.youtube import by_stem, segment_file, segment_name

_PLACES = ("eval_segments", "audio/eval", "eval", "audio", "audios")


def read_audioset(folder: Path) -> Read:
    """The evaluation set: eval_segments.csv and class_labels_indices.csv (index, mid, display_name).

    eval_segments.csv has three lines that start with "#", then YTID, start_seconds, end_seconds and the mids between
    quotes. A tag is the display name of its mid. The sounds may be named in any of the ways of `youtube.segment_file`.
    """
    table = _list(folder, "eval_segments.csv")
    segments = _segments(table)
    words = {r["mid"]: r["display_name"] for r in read_rows(_list(folder, "class_labels_indices.csv"), _INDEX)}
    files = by_stem(folder, _PLACES)
    clips = []
    for video, start, end, mids in segments:
        start_s, end_s = seconds(start, table), seconds(end, table)
        tags = tuple(_named(mid, words, table) for mid in names(mids))
        path = segment_file(files, video, start_s, end_s)
        clips.append(Clip(id=segment_name(video, start_s), audio=str(path), tags=tags, split="eval"))
    return present(clips)


def read_audioset_strong(folder: Path) -> Read:
    """The strong labels of the evaluation set: audioset_eval_strong.tsv and mid_to_display_name.tsv (no header).

    Columns segment_id, start_time_seconds, end_time_seconds, label (a mid). A segment_id is "YTID_START" with START in
    milliseconds of the video; the times are seconds of the segment, which has ten of them. Tags are the labels of the
    events.
    """
    table = _list(folder, "audioset_eval_strong.tsv")
    columns = ("segment_id", "start_time_seconds", "end_time_seconds", "label")
    display = read_rows(_list(folder, "mid_to_display_name.tsv"), ("mid", "name"), delimiter="\t", header=False)
    words = {row["mid"]: row["name"] for row in display}
    events: dict[str, list[Event]] = {}
    for row in read_rows(table, columns, delimiter="\t"):
        onset_s, offset_s = seconds(row["start_time_seconds"], table), seconds(row["end_time_seconds"], table)
        heard = events.setdefault(row["segment_id"], [])
        heard.append(Event(_named(row["label"], words, table), onset_s, offset_s))
    files = by_stem(folder, _PLACES)
    clips = []
    for segment, heard in events.items():
        video, _, start_ms = segment.rpartition("_")
        start_s = seconds(start_ms, table) / 1000
        path = segment_file(files, video, start_s, start_s + 10)
        held = tuple(sorted(heard, key=lambda event: (event.onset_s, event.offset_s, event.label)))
        tags = tuple(sorted({event.label for event in held}))
        clips.append(Clip(id=segment_name(video, start_s), audio=str(path), tags=tags, events=held, split="eval"))
    return present(clips)


def _segments(table: Path) -> list[list[str]]:
    if not table.is_file():
        raise DataError(f"{table.parent}: found no {table.name}, expected the segments of the evaluation set")
    text = io.StringIO(text_of(table), newline="")
    lines = (line for line in text if line.strip() and not line.startswith("#"))
    try:
        rows = list(csv.reader(lines, skipinitialspace=True))
    except csv.Error as error:
        raise DataError(f"{table}: cannot be read as a table: {error}") from None
    odd = next((row for row in rows if len(row) != 4), None)
    if odd is not None:
        raise DataError(f"{table}: found the row {odd}, expected YTID, start_seconds, end_seconds, positive_labels")
    return rows


def _list(folder: Path, name: str) -> Path:
    """A list of the folder, which people keep beside the sounds or in a folder `metadata` (or `metadata/strong`)."""
    places = [folder / place / name for place in ("", "metadata", "metadata/strong")]
    return next((path for path in places if path.is_file()), folder / name)


def _named(mid: str, words: Mapping[str, str], table: Path) -> str:
    if mid not in words:
        raise DataError(f"{table}: found the label '{mid}', which the list of display names does not have")
    return words[mid]


_INDEX = ("index", "mid", "display_name")
_AUDIOSET = "https://research.google.com/audioset/download.html"
_STRONG = "https://research.google.com/audioset/download_strong.html"
_LICENCE = "labels CC BY 4.0; the sounds are YouTube's"
_GONE = "videos disappear: whoever downloads today gets fewer"

audioset = Task(
    name="audioset",
    layout=Layout("audioset", ("AudioSet",), read_audioset, _AUDIOSET, _LICENCE),
    domain="sound",
    kind="tags",
    headline="map",
    splits=("eval",),
    expected=Expected(
        20371, source=f"{_AUDIOSET}, num_segs in eval_segments.csv (the text of the page says 20,383)", note=_GONE
    ),
)
audioset_strong = Task(
    name="audioset-strong",
    layout=Layout("audioset-strong", ("AudioSet-strong", "AudioSet"), read_audioset_strong, _STRONG, _LICENCE),
    domain="sound",
    kind="tags",
    headline="map",
    splits=("eval",),
    expected=Expected(16996, source=_STRONG, note=_GONE),
)

TASKS = (audioset, audioset_strong)
