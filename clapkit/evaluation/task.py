"""A task: data in a layout that somebody published, the part of it that is scored, a metric, prompts, and a version.

Nothing is downloaded: a layout is read from a local folder. Folders of users differ from what was published: files are
missing, classes were added, a split is another. A task says what differs, and its score is then "not standard".
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from clapkit.data.clip import Clip
from clapkit.errors import DataError

Kind = Literal["classes", "tags", "captions"]
SHOWN, LONGEST = 5, 100  # names in a list of differences, and letters of each


@dataclass(frozen=True)
class Layout:
    """How a data set lies on disk.

    name         of the data set, in lower case: "esc50"
    folders      names that its folder has under a data root, compared in lower case without "-", "_" and spaces
    read         folder -> its clips, in the order of its list, each with `split` as published, `label`, `tags` or
                 `captions`, and in `meta` what the list says besides. A clip whose file is not there is left out
                 and named in `Read.missing`. DataError where the folder holds something else
    documented   where the layout is described (page, paper, repository)
    licence      of the data set, as its page says
    """

    name: str
    folders: tuple[str, ...]
    read: Callable[[Path], Read]
    documented: str
    licence: str

    def find(self, root: Path) -> Path | None:
        """The folder of this data set under `root`, which may be it; None where there is none."""
        wanted = {_plain(name) for name in self.folders}
        folders = [root, *sorted(path for path in root.iterdir() if path.is_dir())] if root.is_dir() else []
        return next((path for path in folders if _plain(path.name) in wanted), None)


@dataclass(frozen=True)
class Read:
    """What a layout found: clips, and the names of the files in its list that are not there.

    splits  name of a missing file -> its split as published, where the list says it: a file that is missing from a
            split that a task does not score is no difference
    """

    clips: tuple[Clip, ...]
    missing: tuple[str, ...] = ()
    splits: Mapping[str, str | None] = field(default_factory=dict)

    def missing_from(self, splits: Sequence[str]) -> tuple[str, ...]:
        """The missing files of these splits (none named: of all), and those whose split nobody has said."""
        known = ((name, self.splits.get(name)) for name in self.missing)
        return tuple(name for name, split in known if not splits or split is None or split in splits)


@dataclass(frozen=True)
class Expected:
    """What the published split holds. None: nobody has said, so it is not compared.

    clips     how many
    classes   class names, for tasks with labels or tags
    digest    `digest_of` its clips
    source    where these figures are from
    note      what one has to know about the number of clips; told where it differs
    """

    clips: int | None = None
    classes: tuple[str, ...] | None = None
    digest: str | None = None
    source: str = ""
    note: str = ""


@dataclass(frozen=True)
class Opened:
    """A task on the data of a folder: the clips that are scored, and how they differ from what was published."""

    task: Task
    folder: Path
    clips: tuple[Clip, ...]
    classes: tuple[str, ...]
    differences: tuple[str, ...]

    @property
    def standard(self) -> bool:
        """Whether its score may be compared with published ones."""
        return not self.differences


@dataclass(frozen=True)
class Task:
    """What is scored, and how.

    name        "esc50", "clotho-retrieval": how it is asked for
    layout      of its data
    domain      "sound", "music", "speech" or "animals"
    kind        "classes" (one label a clip), "tags" (several) or "captions" (retrieval both ways)
    splits      values of `Clip.split` that are scored; empty: all clips
    headline    the metric that stands for the task in tables: "accuracy", "map", "r@1_text_to_audio"...
    prompts     label -> what it is called in a sentence, where that differs from the label
    templates   sentences with {} in them: one is a single prompt, several are averaged
    recordings  name of the `meta` column that says which clips come from one recording (they are resampled together)
    version     of the protocol: raised whenever a score could change
    folds       whether `splits` are folds that supervised probes go through one by one
    """

    name: str
    layout: Layout
    domain: str
    kind: Kind
    headline: str
    splits: tuple[str, ...] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)
    templates: tuple[str, ...] = ("this is the sound of {}",)
    recordings: str | None = None
    version: int = 1
    folds: bool = False
    expected: Expected = Expected()

    def open(self, root: Path) -> Opened:
        """The clips of this task under `root`. DataError where there are none, or nothing to score them by."""
        folder = self.layout.find(root)
        if folder is None:
            raise DataError(
                f"no data for the task '{self.name}' in {root}: expected a folder named "
                f"{' or '.join(self.layout.folders)} ({self.layout.documented})"
            )
        found = self.layout.read(folder)
        clips = tuple(clip for clip in found.clips if not self.splits or clip.split in self.splits)
        said = tuple(clip for clip in clips if _said(clip, self.kind))
        if not said:
            raise DataError(
                f"{folder}: none of {len(found.clips)} clips can be scored: {len(clips)} are of {self._wanted()}, and "
                f"these have no {self.kind}; found are {_splits(found.clips)} "
                f"({len(found.missing)} files of the list are missing)"
            )
        classes = _classes(said, self)
        missing = found.missing_from(self.splits)
        differences = (*_missing(missing), *_unsaid(clips, said, self.kind), *self._differences(said))
        return Opened(self, folder, said, classes, differences)

    def phrase(self, label: str) -> str:
        """What a class is called in a sentence."""
        return self.prompts.get(label, label)

    def _wanted(self) -> str:
        return f"the splits {', '.join(self.splits)}" if self.splits else "any split"

    def _differences(self, clips: Sequence[Clip]) -> list[str]:
        told = []
        expected = self.expected
        if expected.clips is not None and len(clips) != expected.clips:
            note = f" ({expected.note})" if expected.note else ""
            told.append(f"{len(clips)} clips, published are {expected.clips}{note}")
        if expected.classes is not None:
            found = {name for clip in clips for name in _said(clip, self.kind)}
            extra, absent = sorted(found - set(expected.classes)), sorted(set(expected.classes) - found)
            told += [f"{len(extra)} classes that were not published: {_some(extra)}"] if extra else []
            told += [f"{len(absent)} classes without a clip: {_some(absent)}"] if absent else []
        if expected.digest is not None and not told and digest_of(clips, self.kind) != expected.digest:
            told.append("the same number of clips, but other names or labels than published")
        return told


def digest_of(clips: Sequence[Clip], kind: Kind) -> str:
    """SHA-256 of the list of a split: the name of each clip with its label, tags or captions, sorted."""
    return hashlib.sha256("\n".join(sorted(_row(clip, kind) for clip in clips)).encode()).hexdigest()


def in_order(clips: Sequence[Clip], kind: Kind) -> tuple[Clip, ...]:
    """The clips in the order of their digest: however a list was sorted, two with the same digest stand row by row."""
    return tuple(sorted(clips, key=lambda clip: (_row(clip, kind), clip.id)))


def _row(clip: Clip, kind: Kind) -> str:
    return "\t".join((Path(clip.id).stem, *_said(clip, kind)))


def _said(clip: Clip, kind: Kind) -> tuple[str, ...]:
    if kind == "classes":
        return () if clip.label is None else (clip.label,)
    return tuple(sorted(clip.tags)) if kind == "tags" else clip.captions


def _classes(clips: Sequence[Clip], task: Task) -> tuple[str, ...]:
    """The published classes in their order, then those that only the data has."""
    if task.kind == "captions":
        return ()
    found = {name for clip in clips for name in _said(clip, task.kind)}
    published = task.expected.classes or ()
    return (*published, *sorted(found - set(published)))


def _missing(names: Sequence[str]) -> list[str]:
    return [f"{len(names)} files of the list are missing: {_some(names)}"] if names else []


def _unsaid(clips: Sequence[Clip], said: Sequence[Clip], kind: Kind) -> list[str]:
    known = {clip.id for clip in said}
    unsaid = [clip.id for clip in clips if clip.id not in known]
    return [f"{len(unsaid)} clips without {kind}: {_some(unsaid)}"] if unsaid else []


def _splits(clips: Sequence[Clip]) -> str:
    found = sorted({str(clip.split) for clip in clips if clip.split is not None})
    return f"the splits {_some(found)}" if found else "no splits"


def _some(names: Sequence[str]) -> str:
    shown = [name if len(name) <= LONGEST else f"{name[:LONGEST]}..." for name in names[:SHOWN]]
    return ", ".join(shown) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter not in "-_ ")
