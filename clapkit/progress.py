"""A live bar for whoever watches long work."""

from __future__ import annotations

from typing import Any


class ProgressBar:
    """A bar with loss, speed and time left on standard error; nothing when `shown` is false."""

    def __init__(self, description: str, total: int, *, first: int = 0, shown: bool = True) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("gone,"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=Console(stderr=True),  # standard output is for results
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
