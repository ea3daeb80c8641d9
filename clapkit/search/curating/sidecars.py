"""Tags as files: a CSV or JSON of all, or a small JSON file beside each sound. What others wrote is never replaced."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from clapkit.errors import DataError
from clapkit.files import atomic_file
from clapkit.search.curating.tagging import Tagged

SUFFIX = ".tags.json"
_MADE_BY = "clapkit tag"


def write_csv(path: str | os.PathLike[str], tagged: Sequence[Tagged]) -> None:
    """A line a tag, most probable first: path, tag, probability. A file without a tag has one line without."""
    text = io.StringIO(newline="")
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(("path", "tag", "probability"))
    for one in tagged:
        rows = [(name, f"{chance:.4f}") for name, chance in one.tags] or [("", "")]
        lines.writerows((one.file, *row) for row in rows)
    with atomic_file(path) as file:
        file.write(text.getvalue().encode())


def write_json(path: str | os.PathLike[str], tagged: Sequence[Tagged]) -> None:
    """A JSON list of {path, tags: [{tag, probability}]}."""
    with atomic_file(path) as file:
        file.write((json.dumps([_plain(one) for one in tagged], indent=1, ensure_ascii=False) + "\n").encode())


def write_sidecars(
    tagged: Sequence[Tagged], *, space_id: str, into: str | os.PathLike[str] | None = None
) -> tuple[int, list[tuple[str, str]]]:
    """SOUND.tags.json for each sound; how many were written, and (file, reason) of those that were not.

    into   a folder for them, laid out as the sounds are below the folder that all are in; None: beside each sound
    A file of this name that this function did not write stays as it is and is reported, as are sounds that are gone
    or lie behind a URL (with `into`, those are no obstacle). Each file is written in one step.
    """
    common = _common([one.file for one in tagged])
    written, refused = 0, []
    for one in tagged:
        place = Path(one.file + SUFFIX)
        if into is not None:
            place = Path(into) / (PurePosixPath(one.file).relative_to(common).as_posix() + SUFFIX)
        elif not os.path.isfile(one.file):
            refused.append((one.file, "the sound is not there, so nothing is put beside it"))
            continue
        if reason := _foreign(place):
            refused.append((one.file, reason))
            continue
        try:
            with atomic_file(place) as file:
                about = {"made_by": _MADE_BY, "space_id": space_id, **_plain(one)}
                file.write((json.dumps(about, indent=1, ensure_ascii=False) + "\n").encode())
            written += 1
        except OSError as error:
            refused.append((one.file, f"{place} cannot be written: {error}"))
    return written, refused


def _plain(one: Tagged) -> dict[str, object]:
    tags = [{"tag": name, "probability": round(chance, 4)} for name, chance in one.tags]
    return {"path": one.file, "tags": tags}


def _foreign(place: Path) -> str | None:
    """Why a file must not be replaced; None where there is none, or it was written here."""
    if not os.path.lexists(place):
        return None
    try:
        if place.is_file() and json.loads(place.read_bytes()).get("made_by") == _MADE_BY:
            return None
    except (OSError, ValueError, AttributeError):
        pass
    return f"{place} is there, and `clapkit tag` did not write it: it stays as it is"


def _common(files: Sequence[str]) -> PurePosixPath:
    parts = [PurePosixPath(name).parent.parts for name in files]
    if any(".." in part for part in parts):
        raise DataError("a sound lies behind '..', which has no place in another folder: index it by its full path")
    shared: list[str] = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return PurePosixPath(*shared)
