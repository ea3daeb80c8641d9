"""Knowing when something has changed in the folders that a library is made from."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from clapkit.errors import MissingExtraError

_QUIET_MS, _LONGEST_MS, _LOOK_MS = 200, 1600, 1000
AGAIN_S = 300.0


def changes(
    sources: Sequence[str],
    *,
    but: Path | None = None,
    again_s: float = AGAIN_S,
    stop: threading.Event | None = None,
) -> Iterator[None]:
    """Yields once when the watch stands, and then after each change below the sources: list them anew each time.

    but       a folder whose changes do not count: that of the library itself
    again_s   yields after so long in any case: not every disk tells of its changes, and not every file that a
              manifest names lies below a source
    stop      ends it; so does an interrupt
    Nothing is lost: what changes while the caller works is told by the next yield. The system is asked to tell of
    folders; single files (and manifests) are looked at every second.
    """
    while stop is None or not stop.is_set():
        told = _told(sources, but=but, stop=stop)
        if next(told, None) is None:  # the watch stands before the caller lists the files
            return
        until, before = time.monotonic() + again_s, _states(sources)
        yield
        for changed in told:
            now = _states(sources)
            if changed or now != before:
                before = now
                yield
            if time.monotonic() >= until:
                break


def _told(sources: Sequence[str], *, but: Path | None, stop: threading.Event | None) -> Iterator[bool]:
    """Whether something changed below the folders; False after a second without a change."""
    try:
        import watchfiles
    except ImportError:
        raise MissingExtraError("watchfiles", "search", "Watching folders") from None
    folders = [source for source in sources if os.path.isdir(source)]
    if not folders:
        yield False
        pause = stop or threading.Event()
        while not pause.wait(_LOOK_MS / 1000):
            yield False
        return
    own = None if but is None else os.path.realpath(but) + os.sep

    def counts(_: object, path: str) -> bool:
        return own is None or not (os.path.realpath(path) + os.sep).startswith(own)

    for found in watchfiles.watch(
        *folders,
        watch_filter=counts,
        debounce=_LONGEST_MS,
        step=_QUIET_MS,
        rust_timeout=_LOOK_MS,
        yield_on_timeout=True,
        stop_event=stop,
        ignore_permission_denied=True,
    ):
        yield bool(found)


def _states(sources: Sequence[str]) -> list[tuple[float, int] | None]:
    """Time and size of the sources that are single files."""
    states: list[tuple[float, int] | None] = []
    for source in sources:
        try:
            state = os.stat(source)
        except OSError:
            states.append(None)
            continue
        states.append(None if os.path.isdir(source) else (state.st_mtime, state.st_size))
    return states
