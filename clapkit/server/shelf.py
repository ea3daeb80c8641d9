"""The files of an index that may be read, and nothing else.

A request names a row, never a path. What is checked here is that the path of the row still leads to a sound where the
indexed sounds are: somebody may have put a link in its place since.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import replace

from clapkit.audio.codecs.containers import sniff
from clapkit.errors import SearchIndexError
from clapkit.search.where import Filter
from clapkit.server.refusals import Refusal
from clapkit.server.rows import Row

_MEDIA_TYPES = {
    "wav": "audio/wav",
    "w64": "audio/x-w64",
    "aiff": "audio/aiff",
    "flac": "audio/flac",
    "caf": "audio/x-caf",
    "au": "audio/basic",
    "ogg": "audio/ogg",
    "mp3": "audio/mpeg",
    "adts": "audio/aac",
    "mp4": "audio/mp4",
    "matroska": "audio/webm",
}


class Shelf:
    """Finds the file of a row, if it may be read.

    files   of the index. Without `roots`, a file is read while it lies, links resolved, in a folder that held one of
            them when the server started
    roots   then files are read if they lie, links resolved, somewhere below one of these folders

    SearchIndexError for a root that is no folder.
    """

    def __init__(self, files: Iterable[str], *, roots: Sequence[str | os.PathLike[str]] = ()) -> None:
        for root in roots:
            if not os.path.isdir(root):
                raise SearchIndexError(f"the root {os.fspath(root)} is no folder: name one that holds indexed sounds")
        self._roots = [os.path.realpath(root) for root in roots]
        stored = {os.path.dirname(file) for file in files}
        folders = {os.path.abspath(folder) for folder in stored}
        self._folders = {os.path.realpath(folder) for folder in folders}
        self._above = _common(folders)
        self._stored_above = _common(stored)

    def name(self, row: Row) -> str:
        """What the file of a row is called outside: its path below the folder that all indexed files share."""
        if row.file is None:
            return row.id
        path = os.path.abspath(row.file)
        below = os.path.relpath(path, self._above) if self._above else os.path.basename(path)
        return below.replace(os.sep, "/").encode("utf-8", "backslashreplace").decode()

    def folder_name(self, stored: str) -> str:
        """What a folder of the index is called outside, as `name` calls what is in it; "." is the one of them all."""
        below = os.path.relpath(stored or ".", self._stored_above or ".") if self._stored_above is not None else stored
        return below.replace(os.sep, "/").encode("utf-8", "backslashreplace").decode()

    def stored_filter(self, asked: Filter) -> Filter:
        """A filter whose files and folders are called as outside, as one that the index understands."""
        if asked.field not in ("file", "folder") or asked.operator == "contains":
            return asked
        if isinstance(asked.value, str):
            return replace(asked, value=self._stored(asked.value))
        return replace(asked, value=[self._stored(name) for name in asked.value])

    def _stored(self, name: str) -> str:
        if not self._stored_above:
            return name
        above = self._stored_above.replace(os.sep, "/")
        return above if name in ("", ".") else f"{above.rstrip('/')}/{name}"

    def find(self, row: Row) -> tuple[str, str]:
        """The real path of the file of a row, and its media type.

        Refusal: 404 for a row without a file, 410 if the file is gone, 403 if its path leads elsewhere by now, or to
        what is no sound.
        """
        if row.file is None:
            raise Refusal(404, f"the row {row.id} has no file of its own")
        real = os.path.realpath(row.file)
        if not self._is_inside(real):
            raise Refusal(403, f"the path of {self.name(row)} leads out of the indexed folders: it is not read")
        try:
            if not stat.S_ISREG(os.stat(real).st_mode):  # opening a pipe could wait for ever
                raise Refusal(403, f"{self.name(row)} is no regular file any more: it is not read")
            with open(real, "rb") as file:
                container = sniff(file)
        except (OSError, ValueError):
            raise Refusal(410, f"{self.name(row)} was deleted or moved, or cannot be read: index it again") from None
        if container is None:
            raise Refusal(403, f"{self.name(row)} is no sound any more: it is not read")
        return real, _MEDIA_TYPES[container]

    def _is_inside(self, real: str) -> bool:
        if not self._roots:
            return os.path.dirname(real) in self._folders
        return any(real.startswith(os.path.join(root, "")) for root in self._roots)


def _common(folders: set[str]) -> str | None:
    try:
        return os.path.commonpath(folders) if folders else None
    except ValueError:  # several drives, or paths from the root beside others
        return None
