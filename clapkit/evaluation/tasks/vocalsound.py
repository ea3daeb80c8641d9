"""VocalSound: laughs, sighs, coughs, throats, sneezes and sniffs (Gong et al., ICASSP 2022)."""

from __future__ import annotations

import re
from pathlib import Path

from clapkit.errors import DataError
from clapkit.evaluation.task import Expected, Layout, Read, Task
from clapkit.evaluation.tasks.listing import json_of, listed, objects, present, refuse

CLASSES = {
    "laughter": "laughter",
    "sigh": "a sigh",
    "cough": "a cough",
    "throatclearing": "throat clearing",
    "sneeze": "a sneeze",
    "sniff": "a sniff",
}
_LISTS = {"tr": "train", "val": "validation", "te": "test"}
_NAME = re.compile(r"(?P<speaker>[fm]\d+)_(?P<time>\d+)_(?P<sound>[a-z]+)")


def read_vocalsound(folder: Path) -> Read:
    """audio_16k/f0003_0_cough.wav: speaker, how often she had come before, sound; datafiles/te.json is the test set.

    The lists hold the paths of their makers, of which only the name counts. The release at 44.1 kHz has the folder
    audio_44k or data_44k, and lists called te_rev.json.
    """
    place = next((name for name in ("audio_16k", "audio_44k", "data_44k") if (folder / name).is_dir()), None)
    lists = {stem: _list(folder / "datafiles", stem) for stem in _LISTS}
    if place is None or lists["te"] is None:
        refuse(folder, "a folder audio_16k (or audio_44k) and datafiles/te.json")
    clips = []
    for stem, path in lists.items():
        for name in () if path is None else _names(path):
            said = _NAME.fullmatch(Path(name).stem)
            if said is None:
                raise DataError(f"{path}: found the file name {name}, expected one such as f0003_0_cough.wav")
            about = {"label": said["sound"], "split": _LISTS[stem], "meta": {"speaker": said["speaker"]}}
            clips.append(listed(folder, f"{place}/{name}", **about))
    return present(clips)


def _list(folder: Path, stem: str) -> Path | None:
    return next((path for end in ("", "_rev") if (path := folder / f"{stem}{end}.json").is_file()), None)


def _names(path: Path) -> list[str]:
    held = json_of(path)
    if not isinstance(held, dict) or not isinstance(held.get("data"), list):
        raise DataError(f'{path}: expected an object with the list "data", each with the path "wav"')
    rows = objects(held["data"], path=path, keys=("wav",))
    return [str(row["wav"]).replace("\\", "/").rsplit("/", 1)[-1] for row in rows]


_PAGE = "https://github.com/YuanGongND/vocalsound"
_PAPER = "https://arxiv.org/abs/2205.03433"

TASKS = (
    Task(
        name="vocalsound",
        layout=Layout(
            "vocalsound",
            ("vocalsound", "vs_release_16k", "vs_release_44k"),
            read_vocalsound,
            _PAGE,
            "CC BY-SA 4.0",
        ),
        domain="speech",
        kind="classes",
        headline="accuracy",
        splits=("test",),
        prompts=CLASSES,
        recordings="speaker",
        expected=Expected(3594, tuple(CLASSES), source=_PAPER),
    ),
)
