"""What a search has found: as a table, JSON, CSV or a playlist."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from clapkit.cli.sounds import printable
from clapkit.cli.terminal import print_json, results, table

_COLUMNS = ("rank", "score", "path", "start_s", "end_s", "label", "tags", "id")


@dataclass(frozen=True)
class Found:
    """A stretch of a file; `end_s` is None where the library does not know it."""

    id: str
    score: float
    path: str
    start_s: float
    end_s: float | None
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)


def show_table(found: Sequence[Found], title: str) -> None:
    """A table for people: paths below the current folder are shown from there."""
    known = any(one.tags or "label" in one.metadata for one in found)
    columns = ("", "score", "from", "to", "file", *(("about",) if known else ()))
    rows = []
    for rank, one in enumerate(found, 1):
        end = "" if one.end_s is None else f"{one.end_s:.1f} s"
        about = ", ".join(dict.fromkeys(map(str, filter(None, (one.metadata.get("label"), *one.tags)))))
        rows.append(
            (rank, f"{one.score:.3f}", f"{one.start_s:.1f} s", end, _near(one.path), *((about,) if known else ()))
        )
    results().print(table(title, columns, rows, numbers=("", "score", "from", "to")))


def show_json(found: Sequence[Found]) -> None:
    print_json([{**asdict(one), "path": printable(one.path), "id": printable(one.id)} for one in found])


def show_csv(found: Sequence[Found]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for rank, one in enumerate(found, 1):
        end = "" if one.end_s is None else f"{one.end_s:.3f}"
        about = (one.metadata.get("label", ""), ";".join(one.tags), printable(one.id))
        writer.writerow((rank, f"{one.score:.6f}", printable(one.path), f"{one.start_s:.3f}", end, *about))


def show_m3u(found: Sequence[Found]) -> None:
    """An extended M3U: players that know start and stop times play the stretch, others the file."""
    lines = ["#EXTM3U"]
    for one in found:
        path = printable(one.path)
        long_s = -1 if one.end_s is None else max(1, round(one.end_s - one.start_s))
        lines.append(f"#EXTINF:{long_s},{path.rsplit('/', 1)[-1]}")
        if one.start_s:
            lines.append(f"#EXTVLCOPT:start-time={one.start_s:.3f}")
        if one.end_s is not None:
            lines.append(f"#EXTVLCOPT:stop-time={one.end_s:.3f}")
        lines.append(path)
    print("\n".join(lines).replace("\r", " "))


def _near(path: str) -> str:
    here = os.getcwd().replace(os.sep, "/").rstrip("/") + "/"
    return printable(path.removeprefix(here))
