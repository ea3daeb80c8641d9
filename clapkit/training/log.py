"""What a run writes down: one JSON object a line, and a live bar for whoever watches."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class JsonLines:
    """Appends to `log.jsonl`. Opened at step n, it first drops what an interrupted run wrote at or beyond step n."""

    def __init__(self, path: Path, *, first_step: int) -> None:
        kept = []
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    if json.loads(line).get("step", -1) < first_step:
                        kept.append(line)
                except ValueError:
                    continue  # the line that a kill cut in half
        path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps({k: _plain(v) for k, v in record.items()}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _plain(value: Any) -> Any:
    """Numbers short enough to read; infinities as text, because JSON has none."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    return value


class ProgressBar:
    """A bar with loss, speed and time left on the terminal; nothing when `shown` is false."""

    def __init__(self, description: str, total: int, *, first: int = 0, shown: bool = True) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as Remaining

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            Remaining(),
            disable=not shown,
        )
        self._task = self._bar.add_task(description, total=total, completed=first, note="")

    def __enter__(self) -> ProgressBar:
        self._bar.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._bar.__exit__(*exception)

    def update(self, done: int, total: int | None = None, *, note: str = "") -> None:
        self._bar.update(self._task, completed=done, total=total, note=note)
