"""Files inside tar archives, read in place by name: `shard-000.tar/dog.flac` names one, as if the tar were a folder.

The headers of a tar are read once; what was found is kept in the cache folder. Nothing is ever extracted, so a name
can lead nowhere, and no header is read into memory that is longer than a name has to be. Links, devices and sparse
files are left out; so are names that would mean something else as a path.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import BinaryIO

from clapkit.errors import AudioError
from clapkit.files import atomic_file, cache_folder

INDEX_VERSION = 1
MAX_MEMBER_BYTES = 1 << 30
_BLOCK = 512
_MAX_HEADER_BYTES = 1 << 16
_MAX_PROBLEMS = 50
_REGULAR = (b"0", b"\0", b"7")
_FOLDER = b"5"


@dataclass(frozen=True)
class Member:
    """A regular file of a tar: `size` bytes from `offset` on."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class TarIndex:
    """The regular files of a tar in their order, and a line for all that was left out or could not be read."""

    members: tuple[Member, ...]
    problems: tuple[str, ...]

    def find(self, name: str) -> Member | None:
        """The member of that name."""
        return self._by_name.get(name)

    @cached_property
    def _by_name(self) -> dict[str, Member]:
        return {member.name: member for member in self.members}


def split_address(address: str | os.PathLike) -> tuple[Path, str] | None:
    """The tar and the name inside it that a path stands for; None for a path that does not lead into a tar."""
    text = os.fspath(address)
    if not isinstance(text, str) or ".tar" not in text.lower():
        return None
    path = Path(text)
    for above in reversed(path.parents):
        if above.suffix.lower() == ".tar" and above.is_file():
            return above, path.relative_to(above).as_posix()
    return None


def is_member(address: str | os.PathLike) -> bool:
    """Whether a path names a file inside a tar that can be read."""
    place = split_address(address)
    if place is None:
        return False
    try:
        return read_index(place[0]).find(place[1]) is not None
    except OSError:
        return False


def read_member(address: str | os.PathLike) -> bytes | None:
    """The bytes of a file inside a tar; None for a path that does not lead into one.

    AudioError for a name that the tar does not have, more than 1 GiB, and a tar that cannot be read.
    """
    place = split_address(address)
    if place is None:
        return None
    tar, name = place
    source = os.fspath(address)
    try:
        index = read_index(tar)
        member = index.find(name)
        if member is None:
            why = f" ({'; '.join(index.problems[:3])})" if index.problems else ""
            raise AudioError(str(source), f"{tar.name} holds no file '{name}'{why}")
        if member.size > MAX_MEMBER_BYTES:
            raise AudioError(str(source), f"{member.size} bytes inside a tar: at most 1 GiB is read, save it as a file")
        with tar.open("rb") as file:
            file.seek(member.offset)
            held = file.read(member.size)
    except OSError as error:
        raise AudioError(str(source), f"{tar.name} cannot be read: {error}") from error
    if len(held) < member.size:
        raise AudioError(str(source), f"{tar.name} was cut off since its index was made")
    return held


def read_index(tar: Path) -> TarIndex:
    """What is in a tar: from memory, from the cache folder, or by reading its headers. OSError if it does not open."""
    status = tar.stat()
    return _indexed(str(tar.resolve()), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _indexed(tar: str, size: int, changed_ns: int) -> TarIndex:
    named = json.dumps([tar, size, changed_ns, INDEX_VERSION])
    kept = cache_folder() / "tars" / f"{hashlib.sha256(named.encode()).hexdigest()[:32]}.json"
    with suppress(OSError, ValueError, TypeError, KeyError):
        told = json.loads(kept.read_bytes())
        return TarIndex(tuple(Member(*entry) for entry in told["members"]), tuple(told["problems"]))
    with open(tar, "rb") as file:
        index = _Scan(file, size).index()
    with suppress(OSError), atomic_file(kept) as out:  # a full or read-only cache costs time only
        members = [[m.name, m.offset, m.size] for m in index.members]
        out.write(json.dumps({"members": members, "problems": index.problems}).encode())
    return index


class _Damaged(Exception):
    """The chain of headers is broken: nothing behind it can be found."""


@dataclass
class _Scan:
    """One pass over the headers of a tar."""

    file: BinaryIO
    size: int
    members: dict[str, Member] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    others: int = 0
    # What an extension header says of the next member: its name, its length, why it cannot be used.
    name: str | None = None
    length: int | None = None
    refused: str = ""

    def index(self) -> TarIndex:
        position = 0
        try:
            while position < self.size:
                following = self._header(position)
                if following is None:
                    break
                position = following
        except _Damaged as error:
            self._note(f"byte {position}: {error}; what comes behind it is lost")
        if self.others:
            self._note(f"{self.others} link(s) or device(s) were left out")
        return TarIndex(tuple(self.members.values()), tuple(self.problems))

    def _note(self, problem: str) -> None:
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(problem)

    def _header(self, position: int) -> int | None:
        """Read the header at `position`; where the next one is, None at the end."""
        self.file.seek(position)
        block = self.file.read(_BLOCK)
        if len(block) == _BLOCK and not any(block):
            return None
        if len(block) < _BLOCK or not _checksum_fits(block):
            raise _Damaged("no tar header where one has to be")
        kind, start = block[156:157], position + _BLOCK
        length = _number(block[124:136]) if kind in b"xgLK" or self.length is None else self.length
        if length < 0 or start + length > self.size:
            raise _Damaged(f"'{_shown(self.name or _plain_name(block))}' is cut off")
        if kind in (b"x", b"L", b"g", b"K"):
            self._extension(kind, start, length)
        else:
            self._member(kind, self.name or _plain_name(block), Member("", start, length))
            self.name, self.length, self.refused = None, None, ""
        return start + -(-length // _BLOCK) * _BLOCK

    def _extension(self, kind: bytes, start: int, length: int) -> None:
        if kind in (b"g", b"K"):
            return
        if length > _MAX_HEADER_BYTES:
            self.refused = f"its header has {length} bytes"
            return
        self.file.seek(start)
        content = self.file.read(length)
        if kind == b"L":
            self.name = _decoded(content.rstrip(b"\0"))
            return
        for key, value in _pax_records(content):
            if key == "path":
                self.name = value
            elif key == "size" and value.isascii() and value.isdigit() and len(value) < 20:
                self.length = int(value)
            elif key.startswith("GNU.sparse"):
                self.refused = "a sparse file"

    def _member(self, kind: bytes, name: str, found: Member) -> None:
        if kind == _FOLDER:
            return
        if kind not in _REGULAR:
            self.others += 1
            return
        name = name.removeprefix("./")
        why = self.refused or _unsafe(name) or ("it is there twice" if name in self.members else "")
        if why:
            self._note(f"'{_shown(name)}' was left out: {why}")
        else:
            self.members[name] = Member(name, found.offset, found.size)


def _unsafe(name: str) -> str:
    """Why a name may not be used as a path below the tar; empty where it may."""
    if not name or "\0" in name or "\\" in name or name.startswith("/") or re.match("[A-Za-z]:", name):
        return "not a relative path"
    return "a path that leads elsewhere" if any(part in ("", ".", "..") for part in name.split("/")) else ""


def _shown(name: str) -> str:
    return name if len(name) <= 100 else f"{name[:97]}..."


def _plain_name(block: bytes) -> str:
    name, prefix = (_decoded(part.split(b"\0", 1)[0]) for part in (block[:100], block[345:500]))
    return f"{prefix}/{name}" if prefix and block[257:263] == b"ustar\0" else name


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "replace")


def _checksum_fits(block: bytes) -> bool:
    return sum(block) - sum(block[148:156]) + 8 * ord(" ") == _number(block[148:156])


def _number(digits: bytes) -> int:
    """A number of a header: octal, or for large ones big-endian behind a byte 0x80; -1 for anything else."""
    if digits[:1] == b"\x80":
        return int.from_bytes(digits[1:], "big")
    try:
        return int(digits.strip(b" \0") or b"0", 8)
    except ValueError:
        return -1


def _pax_records(content: bytes) -> list[tuple[str, str]]:
    """The `length key=value` lines of an extension header, up to the first that is none."""
    found, position = [], 0
    while match := re.compile(rb"(\d{1,9}) ([^=\n]+)=").match(content, position):
        end = position + int(match[1])
        if end > len(content) or end <= match.end() or content[end - 1 : end] != b"\n":
            break
        found.append((_decoded(match[2]), _decoded(content[match.end() : end - 1])))
        position = end
    return found
