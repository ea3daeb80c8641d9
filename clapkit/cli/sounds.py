"""Embedding what the command line names: files with their failures and notes, and the clips of a manifest."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clapkit.cli.inputs import Sounds
from clapkit.cli.terminal import progress_wanted, show_notes, show_skipped
from clapkit.data.clip import Clip
from clapkit.errors import AudioError, AudioFailure

if TYPE_CHECKING:
    from clapkit.api import Clap
    from clapkit.audio.pool import DecodePool
    from clapkit.runtime.engine import Embedded

_BLOCK = 256


@dataclass(frozen=True)
class Outcome:
    """What became of a list of files.

    done      (path, its vectors), in the order of the files
    skipped   (path, reason), what could not be opened at all among them
    """

    done: tuple[tuple[str, Embedded], ...]
    skipped: tuple[tuple[str, str], ...]

    @property
    def summary(self) -> str:
        return f"{len(self.done)} embedded, {len(self.skipped)} skipped"

    def show(self) -> None:
        """The tables of what was skipped and of what carries a note."""
        show_notes([(path, note) for path, result in self.done for note in dict.fromkeys(result.notes)])
        show_skipped(self.skipped)

    def exit_status(self, *, strict: bool) -> int:
        return int(not self.done or (strict and bool(self.skipped)))


def embed_sounds(clap: Clap, sounds: Sounds) -> Outcome:
    """Embed files; one that cannot be used costs that file."""
    done: dict[int, Embedded] = {}
    failed: dict[int, str] = {}
    for result in clap.embed_each(list(sounds.files), progress=progress_wanted()):
        if hasattr(result, "error"):
            failed[result.index] = result.error.reason
        else:
            done[result.index] = result
    return Outcome(
        tuple((sounds.files[i], done[i]) for i in sorted(done)),
        (*sounds.skipped, *((sounds.files[i], failed[i]) for i in sorted(failed))),
    )


def embed_clips(clap: Clap, clips: Sequence[Clip]) -> tuple[dict[int, Embedded], list[AudioFailure]]:
    """Embed the clips of a manifest, each over its own range, in the memory of a block of clips.

    Returns the vectors by position, and what failed (`index` is the position, `source` the clip's id).
    """
    from clapkit.audio.pool import DecodePool
    from clapkit.progress import ProgressBar

    done: dict[int, Embedded] = {}
    failures: list[AudioFailure] = []
    pool = DecodePool(workers=min(8, os.cpu_count() or 1))
    with pool, ProgressBar("embedding", len(clips), shown=progress_wanted()) as bar:
        for first in range(0, len(clips), _BLOCK):
            block = clips[first : first + _BLOCK]
            sounds, broken = _decode_clips(pool, block, clap.rate_hz)
            kept = list(sounds)
            for result in clap.embed_each([sounds[i] for i in kept], workers=0):
                position = kept[result.index]
                if hasattr(result, "error"):
                    broken[position] = result.error.reason
                else:
                    done[first + position] = result
            failures += [AudioFailure(first + i, block[i].id, broken[i]) for i in sorted(broken)]
            bar.update(first + len(block))
    return done, failures


def _decode_clips(pool: DecodePool, clips: Sequence[Clip], rate_hz: int) -> tuple[dict[int, tuple], dict[int, str]]:
    """(samples, rate) and reasons of failure, by position."""
    from clapkit.audio.pool import DecodeRequest

    requests = (
        DecodeRequest(source=clip.audio, rate_hz=rate_hz, start_s=clip.start_s, duration_s=clip.duration_s)
        for clip in clips
    )
    sounds: dict[int, tuple] = {}
    broken: dict[int, str] = {}
    for i, sound in pool.map(requests):
        if isinstance(sound, AudioError):
            broken[i] = sound.reason
        else:
            sounds[i] = (sound.samples, rate_hz)
    return sounds, broken


def write_failures(path: Path, skipped: Sequence[tuple[str, str]]) -> None:
    """What was skipped as a JSON list of {path, reason}; written even if it is empty, so that it is never stale."""
    import json

    from clapkit.files import atomic_file

    with atomic_file(path) as file:
        rows = [{"path": printable(name), "reason": reason} for name, reason in skipped]
        file.write(json.dumps(rows, indent=2).encode())


def printable(path: str) -> str:
    """The path as valid Unicode: file names may hold bytes that are not."""
    return os.fsencode(path).decode("utf-8", "replace")
