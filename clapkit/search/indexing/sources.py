"""What a library is made from: folders, files and manifests, listed as they are now.

Files are named by their whole path, so that the same command finds the same library again from any folder.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clapkit.data.clip import Clip
from clapkit.data.folders import SOUND_SUFFIXES, walk_sounds
from clapkit.data.manifest import read
from clapkit.errors import DataError
from clapkit.search.sync import Found, list_files

MANIFEST_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")


@dataclass(frozen=True)
class About:
    """What a manifest says of one file."""

    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Listing:
    """The files behind sources.

    found    each file once, as it lies there now
    about    what manifests say, by file
    skipped  (path, reason) of files and folders that cannot be read
    away     (source, reason) of sources that are not there, or are folders without any sound: a disk that is not
             mounted looks like that, so what was indexed of them is not to be forgotten
    notes    what else is worth telling
    """

    found: list[Found] = field(default_factory=list)
    about: dict[str, About] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    away: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def keeps(self, file: str) -> bool:
        """Whether a file of the library that was not found may still be there: what it belongs to cannot be seen."""
        if any(is_manifest(source) for source, _ in self.away):  # nobody knows what it named
            return True
        return any(is_below(file, place) for place, _ in (*self.away, *self.skipped))


def source_of(place: str | os.PathLike[str]) -> str:
    """A source as it is remembered: its whole path, with forward slashes. DataError for a URL."""
    name = os.fspath(place)
    if "://" in name:
        raise DataError(f"{name} cannot be indexed: expected folders, files and manifests of this machine (mount it)")
    return os.path.abspath(name).replace(os.sep, "/")


def is_manifest(source: str) -> bool:
    """Whether a source that is no folder is a table that names sounds."""
    return source.lower().endswith(MANIFEST_SUFFIXES)


def is_below(file: str, place: str) -> bool:
    """Whether a file is `place`, or lies below it."""
    return file == place or file.startswith(place.rstrip("/") + "/")


def list_sources(sources: Sequence[str], *, columns: Mapping[str, str] | None = None) -> Listing:
    """Everything that the sources (`source_of`) hold now.

    columns   role -> column of the manifests, as in `clapkit.data.manifest.read`
    Hidden files and folders are left out, links are followed. A manifest may name a file that a folder holds as well:
    it is indexed once, with what the manifest says. DataError for a manifest that cannot be read.
    """
    listing = Listing()
    paths: dict[str, None] = {}
    for source in sources:
        if os.path.isdir(source):
            _walk(source, paths, listing)
        elif not os.path.isfile(source):
            listing.away.append((source, "it is not there"))
        elif is_manifest(source):
            _read(source, paths, listing, columns)
        else:
            paths[source] = None
    found, unread = list_files(paths)
    listing.found, listing.skipped = found, [*listing.skipped, *unread]
    return listing


def _walk(folder: str, paths: dict[str, None], listing: Listing) -> None:
    before = len(paths), len(listing.skipped)
    for path, problem in walk_sounds(folder):
        name = path.replace(os.sep, "/")
        if problem is None:
            paths[name] = None
        else:
            listing.skipped.append((name, problem))
    if (len(paths), len(listing.skipped)) == before and not any(is_below(path, folder) for path in paths):
        kinds = " ".join(sorted(SOUND_SUFFIXES))
        listing.away.append((folder, f"no file in it ends in {kinds} (hidden files are left out)"))


def _read(source: str, paths: dict[str, None], listing: Listing, columns: Mapping[str, str] | None) -> None:
    clips: dict[str, list[Clip]] = {}
    for clip in read(source, columns=columns, check_files=False, need_text=False).clips:
        if not isinstance(clip.audio, str):
            raise DataError(f"{source} holds sound inside the table ({clip.id!r}): expected a column of paths to files")
        clips.setdefault(os.path.abspath(clip.audio).replace(os.sep, "/"), []).append(clip)
    parts = sum(clip.start_s > 0 or clip.duration_s is not None for found in clips.values() for clip in found)
    if parts:
        listing.notes.append(
            f"{source}: {parts} rows name a part of a file: the whole file is indexed, with what is said of its parts"
        )
    paths.update(dict.fromkeys(clips))
    listing.about |= {file: _about(found) for file, found in clips.items()}


def _about(clips: Sequence[Clip]) -> About:
    """What is said of one file by all rows that name it; labels that differ become tags."""
    labels = dict.fromkeys(clip.label for clip in clips if clip.label)
    tags = dict.fromkeys(tag for clip in clips for tag in clip.tags)
    captions = dict.fromkeys(text for clip in clips for text in clip.captions)
    metadata = {key: value for clip in reversed(clips) for key, value in clip.meta.items() if _is_plain(value)}
    if "license" in metadata:
        metadata.setdefault("licence", metadata.pop("license"))
    if captions:
        metadata["caption"] = "\n".join(captions)
    if len(labels) == 1:
        metadata["label"] = next(iter(labels))
    elif labels:
        tags |= labels
    if splits := dict.fromkeys(clip.split for clip in clips if clip.split):
        metadata["split"] = next(iter(splits))
    return About(tuple(tags), metadata)


def _is_plain(value: Any) -> bool:
    """Whether a cell says something, and JSON can hold it."""
    if value is None or value == "" or (isinstance(value, float) and not math.isfinite(value)):
        return False
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def hint_of_manifest(folder: str) -> str | None:
    """The manifest that lies in a folder and would say more of its sounds, if there is one."""
    names = (f"{stem}{suffix}" for stem in ("manifest", "metadata") for suffix in MANIFEST_SUFFIXES)
    return next((path.as_posix() for name in names if (path := Path(folder) / name).is_file()), None)
