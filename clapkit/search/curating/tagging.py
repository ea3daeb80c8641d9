"""Tags for the files of a library, from the vectors that it holds: no sound is heard again.

The cosine of a file with a label becomes a probability by a `Calibration`, which is fitted on the library itself,
without labels. A file may have several tags, or none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clapkit.errors import DataError, SpaceMismatchError, SpecError
from clapkit.search.curating.calibration import LEAST_CLIPS, Calibration, fit_calibration
from clapkit.search.curating.files import FileTable
from clapkit.search.curating.labels import Label
from clapkit.search.view import View
from clapkit.search.writer import Writer

TAGGED = "tagged"  # key of the metadata that holds what was tagged here: {label: probability}
_FIT_FILES = 20_000  # a calibration gains nothing from more
_FILES_AT_ONCE = 4096
_WRITTEN_AT_ONCE = 200


@dataclass(frozen=True)
class Tagged:
    """One file and its tags, (label, probability), the most probable first."""

    file: str
    tags: tuple[tuple[str, float], ...]


def calibrate_on(table: FileTable, labels: Sequence[Label], text_CD: np.ndarray, *, per_file: float) -> Calibration:
    """A calibration of labels, fitted on the files of a library (20,000 of them at most, evenly spread).

    per_file   how many of the labels apply to a file on average, roughly
    DataError for a library of fewer than 20 different files, and what `fit_calibration` raises.
    """
    kept_F = table.without_copies()
    if len(kept_F) < LEAST_CLIPS:
        raise DataError(
            f"the library has {len(kept_F)} different files: expected at least {LEAST_CLIPS} to fit probabilities on. "
            "Give a calibration that was fitted on other sound"
        )
    kept_F = kept_F[np.linspace(0, len(kept_F) - 1, min(len(kept_F), _FIT_FILES)).astype(int)]
    scores_NC = table.vectors_FD[kept_F] @ text_CD.T
    return fit_calibration(scores_NC, [label.name for label in labels], per_clip=per_file)


def tag_files(
    table: FileTable,
    labels: Sequence[Label],
    text_CD: np.ndarray,
    calibration: Calibration,
    *,
    threshold: float | None = None,
    space_id: str | None = None,
) -> Iterator[Tagged]:
    """The tags of each file.

    threshold  probability from which a label is a tag; None: that of the calibration
    space_id   of `text_CD`; SpaceMismatchError where it is not that of the table

    A wider label is as probable as the most probable one within it, or as itself where it is a label of its own.
    SpecError for a threshold outside 0..1, DataError for a calibration of other labels.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise SpecError(f"threshold is {threshold}: expected a probability from 0 to 1")
    if space_id is not None and space_id != table.space_id:
        raise SpaceMismatchError(table.space_id, space_id)
    names = tuple(label.name for label in labels)
    if calibration.prompts != names:
        odd = sorted(set(calibration.prompts) ^ set(names))[:5] or ["the order"]
        raise DataError(f"the calibration is of other labels than these: they differ in {', '.join(odd)}")
    wide, narrow_WC = _wider(labels)
    least = calibration.threshold if threshold is None else threshold
    for start in range(0, len(table), _FILES_AT_ONCE):
        part = slice(start, start + _FILES_AT_ONCE)
        chance_NC = calibration(table.vectors_FD[part] @ text_CD.T)
        above_NW = [chance_NC[:, rows].max(axis=1, keepdims=True) for rows in narrow_WC]
        chance_NL = np.concatenate([chance_NC, *above_NW], axis=1)
        for n, name in enumerate(wide):  # a label of its own takes its place
            if name in names:
                chance_NL[:, names.index(name)] = chance_NL[:, len(names) + n]
                chance_NL[:, len(names) + n] = -1.0
        for file, chance_L in zip(table.files[part], chance_NL, strict=True):
            order = [n for n in np.argsort(-chance_L, kind="stable") if chance_L[n] >= least and chance_L[n] >= 0]
            yield Tagged(file, tuple(((*names, *wide)[n], float(chance_L[n])) for n in order))


def write_tags(
    writer: Writer,
    view: View,
    tagged: Sequence[Tagged],
    *,
    on_chunk: Callable[[int], None] | None = None,
) -> int:
    """Write tags into the rows of a library, in place of those that were written so before; how many files changed.

    Tags that a file has from elsewhere stay. The probabilities stand in the metadata as "tagged". Each 200 files are
    one version of the library: what was killed leaves whole files, and the same call goes on. `on_chunk` is called with
    the number of files that are done.
    """
    about = view.about()
    changed = 0
    for start in range(0, len(tagged), _WRITTEN_AT_ONCE):
        part = tagged[start : start + _WRITTEN_AT_ONCE]
        wanted = {}
        for one in part:
            if one.file not in about:
                continue
            new = with_tagged(*own_part(*about[one.file]), dict(one.tags))
            if new != about[one.file]:
                wanted[one.file] = new
        writer.describe(wanted)
        changed += len(wanted)
        if on_chunk:
            on_chunk(start + len(part))
    return changed


def own_part(tags: Sequence[str], metadata: Mapping[str, Any]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Tags and metadata of a file without what `write_tags` wrote."""
    written = metadata.get(TAGGED, {})
    kept = {key: value for key, value in metadata.items() if key != TAGGED}
    return tuple(tag for tag in tags if tag not in written), kept


def with_tagged(
    tags: Sequence[str], metadata: Mapping[str, Any], tagged: Mapping[str, float]
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Tags and metadata of a file with what was tagged; a tag that the file has of its own stays its own."""
    written = {name: round(chance, 4) for name, chance in tagged.items() if name not in tags}
    kept = {key: value for key, value in metadata.items() if key != TAGGED}
    return (*tags, *written), {**kept, TAGGED: written} if written else kept


def _wider(labels: Sequence[Label]) -> tuple[list[str], list[list[int]]]:
    """The wider labels, and of each the positions of the labels that it holds, itself among them."""
    held: dict[str, list[int]] = {}
    for position, label in enumerate(labels):
        for name in label.within:
            held.setdefault(name, []).append(position)
    own = {label.name: position for position, label in enumerate(labels)}
    for name, positions in held.items():
        if name in own:
            positions.append(own[name])
    return list(held), list(held.values())
