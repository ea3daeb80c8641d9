"""What the commands print: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

_PIPE_WIDTH = 160  # a file or a pipe has no width of its own, and 80 columns cut paths


def speaks() -> bool:
    """Whether this process tells how it goes: of those that torchrun or accelerate started together, the first."""
    return os.environ.get("RANK", "0") == "0" or os.environ.get("WORLD_SIZE", "1") == "1"


def results() -> Console:
    """The console of standard output."""
    return _console(stderr=False)


def remarks() -> Console:
    """The console of standard error."""
    return _console(stderr=True)


def progress_wanted() -> bool:
    """Whether bars are drawn: standard error is a terminal, or FORCE_COLOR says to treat it as one."""
    return Console(stderr=True).is_terminal and speaks()


def say(text: str, *, by_each: bool = False) -> None:
    """One line of explanation on standard error, words in brackets left as they are.

    `by_each`: also from a process for which another speaks.
    """
    console = _console(stderr=True, quiet=False) if by_each else remarks()
    console.print(escape(text), highlight=False)


@contextmanager
def warnings_said() -> Iterator[None]:
    """Inside, what the package warns of is said in words alone; warnings meant for programmers are shown as ever."""
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def said(message: Any, category: type[Warning], filename: str, lineno: int, *where: Any, **how: Any) -> None:
            if category is UserWarning:
                say(f"warning: {message}")
            else:
                shown(message, category, filename, lineno, *where, **how)

        warnings.showwarning = said  # type: ignore[assignment]
        yield


def print_json(data: Any) -> None:
    """JSON on standard output, for programs: no colours, no wrapping, ASCII so that any terminal can carry it."""
    print(json.dumps(data, indent=2))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, numbers: Sequence[str] = ()) -> Table:
    """A table whose long cells go on in the next line instead of being cut; the columns in `numbers` stand right."""
    made = Table(title=escape(title), title_justify="left", header_style="bold")
    for name in columns:
        made.add_column(escape(name), justify="right" if name in numbers else "left", overflow="fold")
    for row in rows:
        made.add_row(*(escape(str(cell)) for cell in row))
    return made


def show_skipped(skipped: Sequence[tuple[str, str]]) -> None:
    """The table of what could not be used, as (path, reason)."""
    if skipped:
        remarks().print(table("skipped", ("file", "reason"), skipped))


def show_notes(notes: Sequence[tuple[str, str]]) -> None:
    """The table of what was used although something about it was odd, as (path, note)."""
    if notes:
        remarks().print(table("used, with a note", ("file", "note"), notes))


def _console(*, stderr: bool, quiet: bool | None = None) -> Console:
    quiet = not speaks() if quiet is None else quiet
    found = Console(stderr=stderr, quiet=quiet)
    return found if found.is_terminal else Console(stderr=stderr, quiet=quiet, width=_PIPE_WIDTH)
