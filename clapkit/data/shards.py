"""Sound in tar shards, in the format of webdataset: members that follow each other and share a name are one sample.

    0001.flac  0001.json        0002.mp3  0002.txt        0003.wav  0003.cls

The name ends at its first dot. A .json holds an object with caption, captions, label, tags and whatever else; each line
of a .txt is a caption; a .cls is a label. Sounds are read in place (`audio.tars`), at random, in the order of any
manifest. A shard or sample that is damaged costs itself, and is named in the report.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clapkit.audio.codecs.containers import sniff
from clapkit.audio.tars import Member, read_index, read_member
from clapkit.data.clip import Clip
from clapkit.data.folders import SOUND_SUFFIXES, SPLIT_FOLDERS
from clapkit.data.tables import Row, Table, columns_of, decode_utf8
from clapkit.errors import AudioError, DataError
from clapkit.files import atomic_file

_MAX_SIDECAR_BYTES = 1 << 20
_MAX_SHARDS = 100_000
_NAMED = 5
_KEY = re.compile(r"(?P<key>(?:.*/)?[^./][^./]*)\.(?P<ending>[^/]+)$")
_BRACES = re.compile(r"\{([^{}]*)\}")
_ENDINGS = {"adts": ".aac", "matroska": ".mka"}  # the others are called as their container
_RANGE = re.compile(r"(\d+)\.\.(\d+)$")


def is_shards(place: Path) -> bool:
    """Whether `place` is a tar, a pattern such as shards-{000..010}.tar, or a folder with tars and no sound files."""
    if place.is_dir():
        endings = {path.suffix.lower() for path in itertools.chain(place.glob("*"), place.glob("*/*"))}
        return ".tar" in endings and not endings & SOUND_SUFFIXES
    return place.suffix.lower() == ".tar" and (place.is_file() or bool(_BRACES.search(str(place))))


def read_shards(place: Path) -> Table:
    """The samples of all shards that `place` stands for, one row each, in the order of the shards and inside them.

    Shards below a folder named train, test, ... have that split. What cannot be read is in the warnings; it is a
    problem where nothing else is left, and where a shard of a pattern does not exist.
    """
    shards, base = _shards_of(place)
    table = Table(base, problems=[f"there is no shard {shard}" for shard in shards if not shard.is_file()])
    faults = _Faults(table)
    for shard in shards if not table.problems else ():
        name = shard.relative_to(base).as_posix()
        split = next((part for part in Path(name).parts[:-1] if part.lower() in SPLIT_FOLDERS), None)
        try:
            index = read_index(shard)
            with shard.open("rb") as file:
                for key, members in _samples(index.members, faults):
                    _add_sample(table, faults, file, f"{name}: {key}", name, members, split)
        except OSError as error:
            table.warnings.append(f"{name} cannot be opened ({error.strerror})")
            continue
        table.warnings += [f"{name}: {problem}" for problem in index.problems]
    faults.tell()
    if not table.rows and not table.problems:
        table.problems += [f"no sample with sound in {len(shards)} shard(s)", *table.warnings]
    table.columns = columns_of(table.rows)
    return table


def expand(pattern: str) -> list[str]:
    """The names that a pattern with braces stands for: {000..010} counts, {a,b} lists. DataError beyond 100,000."""
    parts: list[list[str]] = []
    for number, piece in enumerate(_BRACES.split(pattern)):
        counted = _RANGE.match(piece) if number % 2 else None
        if counted:
            first, last = int(counted[1]), int(counted[2])
            if not 0 <= last - first < _MAX_SHARDS:
                raise DataError(f"{{{piece}}} in '{pattern}' counts up, and to {_MAX_SHARDS:,} names at most")
            parts.append([str(n).zfill(len(counted[1])) for n in range(first, last + 1)])
        else:
            parts.append(piece.split(",") if number % 2 else [piece])
    total = int(np.prod([float(len(part)) for part in parts]))
    if total > _MAX_SHARDS:
        raise DataError(f"'{pattern}' stands for {total:,} names, at most {_MAX_SHARDS:,} are read")
    return ["".join(names) for names in itertools.product(*parts)]


def _shards_of(place: Path) -> tuple[list[Path], Path]:
    """The shards and the folder that their names are told from."""
    if place.is_dir():
        return sorted([*place.glob("*.tar"), *place.glob("*/*.tar")]), place
    shards = [place] if place.is_file() else [Path(name) for name in expand(str(place))]
    return shards, Path(os.path.commonpath([shard.parent for shard in shards]) or ".")


@dataclass
class _Faults:
    """Samples that cost themselves: how many of each kind, and the names of the first."""

    table: Table
    found: dict[str, list[str]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)

    def note(self, what: str, name: str) -> None:
        self.counts[what] += 1
        self.found.setdefault(what, [])
        if len(self.found[what]) < _NAMED:
            self.found[what].append(name)

    def tell(self) -> None:
        for what, names in self.found.items():
            more = f" and {self.counts[what] - len(names)} more" if self.counts[what] > len(names) else ""
            self.table.warnings.append(f"{what}: {', '.join(names)}{more}")
        if self.unread:
            listed = ", ".join(f"{count} .{ending}" for ending, count in sorted(self.unread.items())[:20])
            self.table.warnings.append(f"members that were not read: {listed}")


def _samples(members: Iterable[Member], faults: _Faults) -> Iterator[tuple[str, dict[str, Member]]]:
    """(key, ending -> member) of members that follow each other; hidden ones and those without an ending left out."""
    seen: set[str] = set()
    matched = ((match, member) for member in members if (match := _KEY.match(member.name)))
    for key, found in itertools.groupby(matched, key=lambda pair: pair[0]["key"]):
        by_ending = {match["ending"].lower(): member for match, member in found}
        if key in seen:
            faults.note("left out, a sample of that name came before", key)
            continue
        seen.add(key)
        yield key, by_ending


def _add_sample(
    table: Table,
    faults: _Faults,
    file: io.BufferedReader,
    where: str,
    shard: str,
    members: dict[str, Member],
    split: str | None,
) -> None:
    sounds = [ending for ending in members if f".{ending.rpartition('.')[2]}" in SOUND_SUFFIXES]
    if len(sounds) != 1:
        what = "without sound" if not sounds else "left out, more than one sound (a name ends at its first dot)"
        faults.note(what, where)
        return
    try:
        values = _described(file, members)
    except DataError as error:
        faults.note(f"left out, {error}", where)
        return
    faults.unread.update(ending for ending in members if ending not in ("json", "txt", "cls", sounds[0]))
    if split is not None:
        values.setdefault("split", split)
    table.rows.append(Row(where, {**values, "path": f"{shard}/{members[sounds[0]].name}"}))


def _described(file: io.BufferedReader, members: dict[str, Member]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if "json" in members:
        try:
            told = json.loads(_text(file, members["json"]))
        except (json.JSONDecodeError, RecursionError):
            raise DataError("its .json is not JSON") from None
        if not isinstance(told, dict):
            raise DataError("its .json is not an object")
        # What the file says of itself must not be taken for the place of the sound.
        values = {f"{k} in json" if k == "path" or isinstance(v, dict) else k: v for k, v in told.items()}
    if "txt" in members:
        values = {f"{k} in json" if k.startswith("caption") else k: v for k, v in values.items()}
        lines = [line.strip() for line in _text(file, members["txt"]).splitlines() if line.strip()]
        values["captions"] = lines or ""
    if "cls" in members:
        values.setdefault("label", _text(file, members["cls"]).strip())
    return values


def _text(file: io.BufferedReader, member: Member) -> str:
    ending = member.name.rpartition(".")[2]
    if member.size > _MAX_SIDECAR_BYTES:
        raise DataError(f"its .{ending} is larger than {_MAX_SIDECAR_BYTES >> 20} MiB")
    file.seek(member.offset)
    try:
        return decode_utf8(file.read(member.size))
    except DataError:
        raise DataError(f"its .{ending} is not UTF-8 text") from None


@dataclass(frozen=True)
class Written:
    """Shards that were written, how many clips are in them, and (id, reason) of those that could not be read."""

    shards: tuple[Path, ...]
    clips: int
    skipped: tuple[tuple[str, str], ...]


def write_shards(
    clips: Sequence[Clip],
    folder: Path,
    *,
    size_mb: float = 512.0,
    progress: Callable[[int, int], None] | None = None,
) -> Written:
    """Write clips into `folder` as shard-000000.tar, shard-000001.tar, ..., each of about `size_mb` megabytes at most.

    Sounds are copied as they are, not decoded; what is known of a clip stands in its .json. The same clips give the
    same bytes. DataError for a folder that holds shards already, and where no clip can be read.
    """
    if not size_mb > 0:
        raise DataError(f"a shard of {size_mb} megabytes holds nothing: say a number above 0")
    if folder.is_dir() and any(folder.glob("*.tar")):
        raise DataError(f"'{folder}' holds shards already: choose another folder")
    skipped: list[tuple[str, str]] = []
    shards: list[Path] = []
    samples = _packed(clips, skipped, progress)
    waiting = next(samples, None)
    while waiting is not None:
        path = folder / f"shard-{len(shards):06d}.tar"
        with atomic_file(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            begun = False
            # A sound that is larger than a shard has one of its own.
            while waiting is not None and not (begun and tar.offset + _tar_bytes(waiting) > size_mb * 1e6):
                for name, content in waiting:
                    about = tarfile.TarInfo(name)
                    about.size = len(content)
                    tar.addfile(about, io.BytesIO(content))
                begun = True
                waiting = next(samples, None)
        shards.append(path)
    if not shards:
        raise DataError(f"none of the {len(clips)} clips can be read", [f"{name}: {why}" for name, why in skipped])
    return Written(tuple(shards), len(clips) - len(skipped), tuple(skipped))


_Sample = list[tuple[str, bytes]]


def _packed(
    clips: Sequence[Clip], skipped: list[tuple[str, str]], progress: Callable[[int, int], None] | None
) -> Iterator[_Sample]:
    number = 0
    for done, clip in enumerate(clips, start=1):
        try:
            sound, ending = _sound_of(clip)
        except (AudioError, OSError) as error:
            skipped.append((clip.id, error.reason if isinstance(error, AudioError) else str(error)))
        else:
            about = json.dumps(_about(clip), ensure_ascii=False, indent=1, default=str).encode()
            yield [(f"{number:08d}{ending}", sound), (f"{number:08d}.json", about)]
            number += 1
        if progress:
            progress(done, len(clips))


def _tar_bytes(sample: _Sample) -> int:
    return sum(512 + -(-len(content) // 512) * 512 for _, content in sample)


def _sound_of(clip: Clip) -> tuple[bytes, str]:
    """The encoded sound of a clip, and the ending of its name."""
    if isinstance(clip.audio, np.ndarray):
        raise AudioError(clip.id, "it is decoded already: shards hold encoded sound")
    if isinstance(clip.audio, bytes):
        kind = sniff(io.BytesIO(clip.audio))
        if kind is None:
            raise AudioError(clip.id, "not a known sound")
        return clip.audio, _ENDINGS.get(kind, f".{kind}")
    held = read_member(clip.audio)
    content = Path(clip.audio).read_bytes() if held is None else held
    suffix = Path(clip.audio).suffix.lower()
    if suffix not in SOUND_SUFFIXES:
        raise AudioError(clip.id, f"its name does not end in {' '.join(sorted(SOUND_SUFFIXES))}")
    return content, suffix


def _about(clip: Clip) -> dict[str, Any]:
    """What a .json says of a clip; whatever is empty is left out."""
    events = [{"label": e.label, "onset_s": e.onset_s, "offset_s": e.offset_s} for e in clip.events]
    known = {
        "id": clip.id,
        "captions": list(clip.captions),
        "label": clip.label,
        "tags": list(clip.tags),
        "split": clip.split,
        "start_s": clip.start_s or None,
        "duration_s": clip.duration_s,
        "events": events,
        "wrong": list(clip.wrong),
    }
    told = {name: value for name, value in known.items() if value not in (None, [])}
    return {**{name: value for name, value in clip.meta.items() if value is not None}, **told}
