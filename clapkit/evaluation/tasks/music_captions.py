"""Music with sentences about it: MusicCaps and the Song Describer Dataset."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

from clapkit.data.clip import Clip
from clapkit.evaluation.task import Expected, Layout, Read, Task
from clapkit.evaluation.tasks.listing import listed, present, read_rows, seconds
from clapkit.evaluation.tasks.youtube import by_stem, segment_file, segment_name


def read_musiccaps(folder: Path) -> Read:
    """MusicCaps: musiccaps-public.csv (ytid, start_s, end_s, aspect_list, caption, is_audioset_eval...).

    A clip is of the split "eval" or "train", as it is in AudioSet. The sounds are in `audio`, `wav` or anywhere else in
    the folder, named in any of the ways of `youtube.segment_file`. `aspect_list` becomes the tags.
    """
    table = folder / "musiccaps-public.csv"
    rows = read_rows(table, ("ytid", "start_s", "end_s", "aspect_list", "caption", "is_audioset_eval"))
    files = by_stem(folder, ("audio", "wav"))
    clips = []
    for row in rows:
        start_s, end_s = seconds(row["start_s"], table), seconds(row["end_s"], table)
        clips.append(
            Clip(
                id=segment_name(row["ytid"], start_s),
                audio=str(segment_file(files, row["ytid"], start_s, end_s)),
                captions=(row["caption"],) if row["caption"] else (),
                tags=literal_list(row["aspect_list"]),
                split="eval" if row["is_audioset_eval"].lower() == "true" else "train",
                meta={"balanced": row.get("is_balanced_subset", "").lower() == "true"},
            )
        )
    return present(clips)


def read_song_describer(folder: Path, *, validated: bool) -> Read:
    """The Song Describer Dataset: song_describer.csv with a row a caption, and audio/00/0000100.2min.mp3.

    The csv calls the file "00/0000100.mp3", after the whole track; what is published are its first two minutes.
    With `validated` only the captions that were checked by hand count, and the tracks that have one.
    """
    columns = ("caption_id", "track_id", "caption", "is_valid_subset", "path", "artist_id")
    said: dict[str, list[str]] = {}
    artists: dict[str, str] = {}
    for row in read_rows(folder / "song_describer.csv", columns):
        if not validated or row["is_valid_subset"].lower() == "true":
            said.setdefault(row["path"], []).append(row["caption"])
            artists[row["path"]] = row["artist_id"]
    clips = []
    for path, captions in said.items():
        name = path.removesuffix(".mp3").removesuffix(".2min") + ".2min.mp3"
        texts = tuple(text for text in captions if text)
        clips.append(listed(folder, f"audio/{name}", captions=texts, meta={"artist": artists[path]}))
    return present(clips)


def literal_list(text: str) -> tuple[str, ...]:
    """The words of "['a', 'b']"; of anything else, the words between commas."""
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        found = None
    if isinstance(found, (list, tuple)):
        return tuple(str(one) for one in found)
    return tuple(word.strip() for word in text.split(",") if word.strip())


_MUSICCAPS = "https://huggingface.co/datasets/google/MusicCaps"
_SONG_DESCRIBER = "https://github.com/mulab-mir/song-describer-dataset/blob/main/docs/datacard.md"

musiccaps = Task(
    name="musiccaps",
    layout=Layout("musiccaps", ("MusicCaps",), read_musiccaps, _MUSICCAPS, "captions CC BY-SA 4.0; YouTube's sounds"),
    domain="music",
    kind="captions",
    headline="r@1_text_to_audio",
    splits=("eval",),
    expected=Expected(
        2858,
        digest="0b17874f11f020cb0ed7d01be3e680d782ffa2ef255a5a94ac031702007bc1f5",
        source=f"{_MUSICCAPS}, 2,858 clips of the eval split of AudioSet, 2,663 of its train split",
    ),
)


def _song_describer(name: str, *, validated: bool, expected: Expected) -> Task:
    folders = ("song-describer", "song-describer-dataset", "SDD")
    read = functools.partial(read_song_describer, validated=validated)
    return Task(
        name=name,
        layout=Layout(name, folders, read, _SONG_DESCRIBER, "CC BY-SA 4.0; the sounds Creative Commons, see its list"),
        domain="music",
        kind="captions",
        headline="r@1_text_to_audio",
        recordings="artist",
        expected=expected,
    )


song_describer = _song_describer(
    "song-describer", validated=False, expected=Expected(706, source=f"{_SONG_DESCRIBER}, 706 tracks, 1,106 captions")
)
song_describer_valid = _song_describer(
    "song-describer-valid",
    validated=True,
    expected=Expected(source=f"{_SONG_DESCRIBER}, 746 captions; the card says of 546 tracks, the data sheet of 547"),
)

TASKS = (musiccaps, song_describer, song_describer_valid)
