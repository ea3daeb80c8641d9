"""A folder of sound files as rows: captions from sidecar files, or labels from the names of subfolders."""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clapkit.data.tables import Row, Table, columns_of, decode_utf8
from clapkit.errors import DataError

_PLAIN_SUFFIXES = (".wav", ".flac", ".aif", ".aiff", ".au", ".caf", ".w64")
_PACKED_SUFFIXES = (".ogg", ".oga", ".opus", ".mp3", ".m4a", ".aac", ".mp4", ".m4b", ".mov", ".mkv", ".mka", ".webm")
SOUND_SUFFIXES = frozenset((*_PLAIN_SUFFIXES, *_PACKED_SUFFIXES))
SPLIT_FOLDERS = frozenset(("train", "training", "val", "valid", "validation", "dev", "test", "eval", "evaluation"))


def read_sound_folder(folder: Path) -> Table:
    """Every sound below `folder` (hidden files left out), one row each, in the order of their paths.

    `dog.wav` with `dog.txt` beside it: each line of the text is a caption. With `dog.json`: the object holds caption,
    captions, label, tags and whatever else. Where no sound has such a file, the subfolder that holds it is its label.
    A first subfolder named train, test, ... is its split.
    """
    table = Table(folder)
    files = sorted(f for f in folder.rglob("*") if not _hidden(f.relative_to(folder)) and not f.is_dir())
    sounds = [f for f in files if f.suffix.lower() in SOUND_SUFFIXES]
    texts = {f for f in files if f.suffix.lower() in (".txt", ".json")}
    sidecars = {sound: [t for t in _sidecar_names(sound) if t in texts] for sound in sounds}
    labelled_by_folder = not any(sidecars.values())
    for sound in sounds:
        values = _folder_values(sound.relative_to(folder), as_label=labelled_by_folder)
        read = _read_sidecars(sound.relative_to(folder), sidecars[sound], table)
        table.rows.append(Row(sound.relative_to(folder).as_posix(), {**values, **read, "path": values["path"]}))
    _note_other_files(table, set(files) - set(sounds) - {t for found in sidecars.values() for t in found})
    table.columns = columns_of(table.rows)
    if not sounds:
        table.problems.append(
            f"no sound files in this folder ({len(files)} other files); known types: {' '.join(sorted(SOUND_SUFFIXES))}"
        )
    return table


def walk_sounds(folder: str | os.PathLike[str]) -> Iterator[tuple[str, str | None]]:
    """(path, why it cannot be tried, or None) of what lies below `folder` and is named like sound, sorted by name.

    Hidden files and folders are left out; links are followed, each folder once. A folder that cannot be read is told
    of in the same way.
    """
    seen: set[str] = set()
    waiting = [os.fspath(folder)]
    while waiting:
        current = waiting.pop()
        real = os.path.realpath(current)
        if real in seen:  # a link that leads back up
            continue
        seen.add(real)
        try:
            names = sorted(os.listdir(current))
        except OSError as error:
            yield current, f"the folder cannot be read ({error.strerror})"
            continue
        below = []
        for name in names:
            path = os.path.join(current, name)
            if name.startswith("."):
                continue
            if os.path.isdir(path):
                below.append(path)
            elif os.path.splitext(name)[1].lower() in SOUND_SUFFIXES:
                yield path, _obstacle(path)
        waiting.extend(reversed(below))


def _obstacle(path: str) -> str | None:
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "a broken link: what it points to does not exist"
    except OSError as error:
        return f"cannot be looked at ({error.strerror})"
    # Reading a pipe or a device could wait for ever.
    return None if stat.S_ISREG(mode) else "not a regular file"


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _sidecar_names(sound: Path) -> list[Path]:
    return [sound.with_suffix(".txt"), sound.with_suffix(".json")]


def _folder_values(relative: Path, *, as_label: bool) -> dict[str, Any]:
    parts = list(relative.parts[:-1])
    values: dict[str, Any] = {"path": relative.as_posix()}
    if parts and parts[0].lower() in SPLIT_FOLDERS:
        values["split"] = parts.pop(0)
    if parts:
        values["label" if as_label else "folder"] = parts[-1]
    return values


def _read_sidecars(sound: Path, found: list[Path], table: Table) -> dict[str, Any]:
    """The values that the sidecar file of one sound adds; problems go to `table`."""
    if len(found) > 1:
        names = " and ".join(f.name for f in found)
        table.problems.append(f"{sound.as_posix()}: both {names} describe it, keep one")
    if not found:
        return {}
    sidecar, where = found[0], sound.with_name(found[0].name).as_posix()
    try:
        text = decode_utf8(sidecar.read_bytes())
        if sidecar.suffix == ".txt":
            # An empty file says "there should be a caption": keep it visible as an empty one.
            return {"captions": [line.strip() for line in text.splitlines() if line.strip()] or ""}
        value = json.loads(text)
    except OSError as error:
        table.problems.append(f"{where}: cannot be opened ({error.strerror})")
    except DataError as error:
        table.problems.append(f"{where}: {error}")
    except (json.JSONDecodeError, RecursionError) as error:
        table.problems.append(f"{where}: not JSON ({error})")
    else:
        if isinstance(value, dict):
            return value
        table.problems.append(f"{where}: expected a JSON object, found {type(value).__name__}")
    return {}


def _note_other_files(table: Table, others: set[Path]) -> None:
    if others:
        kinds = Counter(f.suffix.lower() or "no suffix" for f in others)
        listed = ", ".join(f"{count} {suffix}" for suffix, count in sorted(kinds.items()))
        table.warnings.append(f"{len(others)} file(s) of the folder were not read: {listed}")
