"""What is typed on the command line, turned into files, labels, filters and settings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clapkit.data.folders import SOUND_SUFFIXES, walk_sounds
from clapkit.errors import DataError, SearchIndexError, SpecError

if TYPE_CHECKING:
    from clapkit.library import Index


@dataclass(frozen=True)
class Sounds:
    """Files to be tried, and what was found but cannot be: (path, reason)."""

    files: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]


def find_sounds(places: Sequence[Path]) -> Sounds:
    """The files named by `places` and all sound files below the folders among them, each once.

    A file that is named is tried whatever its name says; in folders the ending decides, and hidden files and folders
    are left out. Links are followed, each folder once. DataError for folders that hold no sound.
    """
    files: dict[str, None] = {}
    skipped: dict[str, str] = {}
    empty = []
    for place in places:
        if not place.is_dir():
            files[os.fspath(place)] = None
            continue
        before = len(files), len(skipped)
        for path, problem in walk_sounds(place):
            if problem is None:
                files[path] = None
            else:
                skipped[path] = problem
        if (len(files), len(skipped)) == before and not _holds_known(place, files):
            empty.append(f"{place}: no file in it ends in {' '.join(sorted(SOUND_SUFFIXES))}")
    if empty:
        raise DataError(f"{len(empty)} folder(s) hold no sound files (hidden files are left out):", empty)
    return Sounds(tuple(files), tuple(skipped.items()))


def _holds_known(place: Path, files: dict[str, None]) -> bool:
    """Whether the folder only repeats files that another argument has named already."""
    return any(path in files for path, _ in walk_sounds(place))


def read_labels(labels: str | None, labels_file: Path | None) -> list[str]:
    """The class names of `--labels a,b,c` or of a file with one a line; SpecError for neither, both or none inside."""
    if (labels is None) == (labels_file is None):
        raise SpecError("name the labels once: either --labels dog,cat,rain or --labels-file FILE with one a line")
    if labels is not None:
        names = labels.split(",")
    else:
        assert labels_file is not None
        try:
            names = labels_file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"the labels file {labels_file} cannot be read as UTF-8 text: {error}") from error
    kept = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    if not kept:
        raise SpecError(f"there is no label in {labels_file or repr(labels)}")
    return kept


def read_splits(options: Sequence[str]) -> dict[str, list[str]]:
    """`["split=fold1,fold2"]` as {"split": ["fold1", "fold2"]}; a column named twice has the values of both."""
    splits: dict[str, list[str]] = {}
    for option in options:
        column, values = _pair(option, "--split COLUMN=value,value", empty_value=False)
        splits.setdefault(column, []).extend(value.strip() for value in values.split(","))
    return splits


def read_columns(options: Sequence[str]) -> dict[str, str]:
    """`["caption=title"]` as {"caption": "title"}; an empty column leaves the role unread."""
    return dict(_pair(option, "--column ROLE=COLUMN", empty_value=True) for option in options)


def read_sets(options: Sequence[str]) -> dict[str, str]:
    """`["train.steps=500"]` as {"train.steps": "500"}."""
    return dict(_pair(option, "--set key=value, as in --set train.steps=500", empty_value=False) for option in options)


def _pair(option: str, expected: str, *, empty_value: bool) -> tuple[str, str]:
    name, sign, value = option.partition("=")
    if not sign or not name.strip() or not (empty_value or value.strip()):
        raise SpecError(f"'{option}' cannot be read: expected {expected}")
    return name.strip(), value.strip()


def model_options(
    *,
    device: str,
    precision: str,
    provider: str | None,
    trust: Sequence[str] | None,
    compile: bool,
    calibration: Sequence[Path] | None,
) -> dict[str, Any]:
    """The options of a command as arguments of `clapkit.load`."""
    sounds = None if calibration is None else list(find_sounds(calibration).files)
    given = {"device": device, "precision": precision, "provider": provider, "compile": compile}
    return {**given, "trust": tuple(trust or ()), "calibration": sounds}


def open_store(folder: str, model: str | None = None, *, needs_model: bool = True, **how: Any) -> Index:
    """The library of a command that works on windows: its `store` is there, and its model where it is needed.

    SearchIndexError for an index of the older kind, for a place without a library, and where the model is gone.
    """
    from clapkit.library import RENEW, Index, is_exact
    from clapkit.search.store import Store

    if is_exact(folder):
        raise SearchIndexError(f"{folder} is an index of the older kind, which knows no windows and no tags: {RENEW}")
    if not needs_model:
        return Index(Store.open(folder), None)
    index = Index.open(folder, model, **how)
    if index.model is None:
        raise SearchIndexError(f"the model that made {folder} is not where it was: name it with --model RUN")
    return index
