"""Sounds with sentences about them: Clotho, AudioCaps, MACS and WavCaps."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from clapkit.data.clip import Clip
from clapkit.errors import DataError, MissingExtraError
from clapkit.evaluation.task import Expected, Layout, Read, Task
from clapkit.evaluation.tasks.listing import json_of, listed, objects, present, read_rows, refuse, seconds, text_of
from clapkit.evaluation.tasks.youtube import by_stem, segment_file, segment_name

CLOTHO_SPLITS = ("development", "validation", "evaluation")
AUDIOCAPS_SPLITS = ("train", "val", "test")
WAVCAPS_SOURCES = {
    "AudioSet_SL": ("as_final.json", 108317),
    "BBC_Sound_Effects": ("bbc_final.json", 31201),
    "FreeSound": ("fsd_final.json", 262300),
    "SoundBible": ("sb_final.json", 1232),
}
_DEEPEST = 20


def read_clotho(folder: Path) -> Read:
    """The splits of Clotho whose clotho_captions_SPLIT.csv is there, in the folder or in its clotho_csv_files.

    The sounds of a split are in a folder of its name, or in clotho_audio_files/SPLIT. Versions 1 and 2 have the same
    evaluation split.
    """
    clips: list[Clip] = []
    for split in CLOTHO_SPLITS:
        name = f"clotho_captions_{split}.csv"
        table = next((path for path in (folder / name, folder / "clotho_csv_files" / name) if path.is_file()), None)
        if table is None:
            continue
        columns = [f"caption_{n}" for n in range(1, 6)]
        below = "clotho_audio_files/" if (folder / "clotho_audio_files" / split).is_dir() else ""
        for row in read_rows(table, ("file_name", *columns)):
            said = tuple(row[column] for column in columns if row[column])
            clips.append(listed(folder, f"{below}{split}/{row['file_name']}", captions=said, split=split))
    if not clips:
        refuse(folder, "clotho_captions_evaluation.csv with the folder evaluation")
    return present(clips)


def read_audiocaps(folder: Path) -> Read:
    """The splits of AudioCaps whose csv is there (in the folder, in `dataset` or in `csv_files_v1`).

    One row a caption: audiocap_id, youtube_id, start_time, caption. The sounds may be named in any of the ways of
    `youtube.segment_file`, in test, audio/test, audio_32000Hz/test, or anywhere else in the folder.
    """
    clips: list[Clip] = []
    for split in AUDIOCAPS_SPLITS:
        tables = [folder / place / f"{split}.csv" for place in ("", "dataset", "csv_files_v1")]
        table = next((path for path in tables if path.is_file()), None)
        if table is None:
            continue
        said: dict[tuple[str, str], list[str]] = {}
        for row in read_rows(table, ("youtube_id", "start_time", "caption")):
            said.setdefault((row["youtube_id"], row["start_time"]), []).append(row["caption"])
        files = by_stem(folder, (split, f"audio/{split}", f"audio_32000Hz/{split}"))
        for (video, start), captions in said.items():
            start_s = seconds(start, table)
            path = segment_file(files, video, start_s, start_s + 10)
            known: dict[str, Any] = {
                "captions": tuple(text for text in captions if text),
                "split": split,
                "meta": {"video": video},
            }
            clips.append(Clip(id=segment_name(video, start_s), audio=str(path), **known))
    if not clips:
        refuse(folder, "test.csv with audiocap_id, youtube_id, start_time and caption")
    return present(clips)


def read_macs(folder: Path) -> Read:
    """MACS.yaml: for each file of `audio` the sentences (and tags) of several annotators.

    Files are named as in TAU Urban Acoustic Scenes 2019, "airport-barcelona-0-0-a.wav": scene, city, place, segment,
    device. `meta["place"]` says where a clip was recorded. Raises MissingExtraError without pyyaml.
    """
    if not (folder / "MACS.yaml").is_file():
        refuse(folder, "MACS.yaml with the folder audio")
    try:
        import yaml
    except ImportError:
        raise MissingExtraError("pyyaml", "hub", "Reading MACS.yaml") from None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    path = folder / "MACS.yaml"
    text = text_of(path)
    try:
        _check_depth(yaml.parse(text, Loader=loader), path)
        held = yaml.load(text, Loader=loader)  # a safe loader: it makes no objects but plain ones
    except yaml.YAMLError as error:
        raise DataError(f"{path}: cannot be read as YAML: {error}") from None
    if not isinstance(held, dict) or not isinstance(held.get("files"), list):
        raise DataError(f"{path}: found no list 'files', expected one with filename and annotations")
    clips = []
    for entry in objects(held["files"], path=path, keys=("filename",)):
        annotations = objects(entry.get("annotations") or [], path=path, keys=())
        said = tuple(str(one["sentence"]).strip() for one in annotations if one.get("sentence"))
        tags = tuple(dict.fromkeys(str(tag) for one in annotations for tag in one.get("tags") or ()))
        name = str(entry["filename"])
        meta = {"place": Path(name).stem.rsplit("-", 2)[0]}
        clips.append(listed(folder, f"audio/{name}", captions=said, tags=tags, meta=meta))
    return present(clips)


def read_wavcaps(folder: Path, *, source: str) -> Read:
    """One source of WavCaps: json_files/SOURCE/..._final.json and Audio/SOURCE/ID.flac."""
    table = folder / "json_files" / source / WAVCAPS_SOURCES[source][0]
    if not table.is_file():
        refuse(folder, f"{table.relative_to(folder).as_posix()} with the folder Audio/{source}")
    held = json_of(table)
    if not isinstance(held, dict) or not isinstance(held.get("data"), list):
        raise DataError(f"{table}: found no list 'data', expected one with id and caption")
    entries = objects(held["data"], path=table, keys=("id",))
    return present(_wavcaps_clip(folder, entry, source) for entry in entries)


def _check_depth(events: Iterable[Any], path: Path) -> None:
    """Refuse what is nested deeper than such a list is: the loader in C goes down without a limit, and dies of it."""
    depth = 0
    for event in events:
        kind = type(event).__name__
        depth += kind.endswith("StartEvent") - kind.endswith("EndEvent")
        if depth > _DEEPEST:
            raise DataError(f"{path}: cannot be read as YAML: nested deeper than {_DEEPEST} levels")


def _wavcaps_clip(folder: Path, entry: dict[str, Any], source: str) -> Clip:
    name = str(entry["id"]).removesuffix(".wav")  # the ids of AudioSet_SL end in it, the files are all FLAC
    said = str(entry.get("caption") or "").strip()
    return listed(folder, f"Audio/{source}/{name}.flac", captions=(said,) if said else ())


_CLOTHO = "https://zenodo.org/records/4783391"
_AUDIOCAPS = "https://github.com/cdjkim/audiocaps/tree/master/dataset"
_MACS = "https://zenodo.org/records/5114771"
_WAVCAPS = "https://huggingface.co/datasets/cvssp/WavCaps"
_CLOTHO_FOLDERS = ("clotho", "clotho-dataset", "CLOTHO_v1", "CLOTHO_v2", "CLOTHO_v2.1")

clotho = Task(
    name="clotho",
    layout=Layout(
        "clotho",
        _CLOTHO_FOLDERS,
        read_clotho,
        _CLOTHO,
        "Tampere University, non-commercial; sounds CC, see its metadata",
    ),
    domain="sound",
    kind="captions",
    headline="r@1_text_to_audio",
    splits=("evaluation",),
    expected=Expected(
        1045,
        digest="8a9fecc0bbb3c72d8c73639a40f32f6725eab61f7e73f12870dc996d67638193",
        source=f"{_CLOTHO}, evaluation split, the same in versions 1, 2 and 2.1",
    ),
)
audiocaps = Task(
    name="audiocaps",
    layout=Layout(
        "audiocaps",
        ("audiocaps", "AUDIOCAPS_32000Hz", "AudioCaps1.0"),
        read_audiocaps,
        _AUDIOCAPS,
        "captions MIT; the sounds are YouTube's",
    ),
    domain="sound",
    kind="captions",
    headline="r@1_text_to_audio",
    splits=("test",),
    expected=Expected(
        975,
        digest="c1decf35e256f25b0e3789f58a07b44852ebc5e00ffa4db3a243ff863b73fd72",
        source=f"{_AUDIOCAPS}, test.csv of the first version",
        note="papers score 957 to 975 of them, as videos disappear; 816 where those of other data sets are left out",
    ),
)
macs = Task(
    name="macs",
    layout=Layout("macs", ("MACS",), read_macs, _MACS, "non-commercial, see LICENCE.txt of the data set"),
    domain="sound",
    kind="captions",
    headline="r@1_text_to_audio",
    recordings="place",
    expected=Expected(3930, source=_MACS),
)


def _wavcaps(source: str) -> Task:
    name = f"wavcaps-{source.split('_')[0].lower()}"
    read = functools.partial(read_wavcaps, source=source)
    return Task(
        name=name,
        layout=Layout(name, ("WavCaps",), read, _WAVCAPS, "academic use only"),
        domain="sound",
        kind="captions",
        headline="r@1_text_to_audio",
        expected=Expected(WAVCAPS_SOURCES[source][1], source=_WAVCAPS),
    )


TASKS = (clotho, audiocaps, macs, *(_wavcaps(source) for source in WAVCAPS_SOURCES))
