"""clapkit duplicates: sounds that a library holds more than once."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clapkit.cli.inputs import open_store
from clapkit.cli.options import Strict
from clapkit.cli.sounds import printable
from clapkit.cli.terminal import print_json, progress_wanted, results, say, show_skipped, table
from clapkit.errors import AudioError, SpecError

if TYPE_CHECKING:
    from clapkit.search.curating.files import FileTable
    from clapkit.search.curating.versions import Group, Link
    from clapkit.search.fingerprint import Fingerprint

_Folder = Annotated[str, typer.Argument(metavar="LIBRARY", help="Folder or URL written by `clapkit index`.")]
_Threshold = Annotated[float | None, typer.Option(help="Agreement from which two sounds are one recording.")]
_Alike = Annotated[
    float | None,
    typer.Option("--alike", metavar="COSINE", help="Also what sounds the same, by the stored vectors: from 0.98, say."),
]
_Parts = Annotated[bool, typer.Option("--parts", help="Also sounds that share only a part.")]
_Unheard = Annotated[bool, typer.Option("--unheard", help="Do not listen: equal files, and --alike, alone.")]
_Workers = Annotated[int | None, typer.Option(min=0, help="Decoder processes.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
_Out = Annotated[Path | None, typer.Option("--out", help="Write all groups to this .csv or .json file.")]
_SHOWN = 20
_EXAMPLES = """
Examples:

clapkit duplicates lib   (the same recording: copied, encoded again, louder, cut)

clapkit duplicates lib --parts --alike 0.98 --out doubles.csv   (also cuts that overlap, and what sounds the same)
"""


def add_to(app: typer.Typer) -> None:
    app.command("duplicates", epilog=_EXAMPLES)(duplicates)


def duplicates(
    folder: _Folder,
    threshold: _Threshold = None,
    alike: _Alike = None,
    parts: _Parts = False,
    unheard: _Unheard = False,
    workers: _Workers = None,
    as_json: _Json = False,
    out: _Out = None,
    strict: Strict = False,
) -> None:
    """List the sounds of a library that it holds more than once, in groups. Nothing is removed.

    Recordings are told by an acoustic fingerprint, so every file is heard once (the first ten minutes of it). No model
    is needed. A file may be in a group by way of another one: the links say what was compared with what.
    """
    if out is not None and out.suffix.lower() not in (".csv", ".json"):
        raise SpecError(f"--out {out}: expected a name that ends in .csv or .json")
    from clapkit.search.curating import versions
    from clapkit.search.curating.files import file_table
    from clapkit.search.fingerprint import THRESHOLD

    store = open_store(folder, needs_model=False).store
    assert store is not None
    sounds = file_table(store.view)
    links = versions.same_contents(sounds)
    skipped: list[tuple[str, str]] = []
    if not unheard:
        prints = _heard(sounds, workers, skipped)
        found = versions.versions_of(prints, threshold=THRESHOLD if threshold is None else threshold)
        links += [link for link in found if parts or link.kind == "copy"]
    if alike is not None:
        known = {frozenset((link.file, link.other)) for link in links}
        links += [
            link for link in versions.alike(sounds, above=alike) if frozenset((link.file, link.other)) not in known
        ]
    groups = versions.groups_of(links)
    _give(groups, out, as_json=as_json)
    show_skipped(skipped)
    kinds = Counter(link.kind for link in links)
    told = ", ".join(f"{kinds[kind]} {kind}" for kind in versions.KINDS if kinds[kind]) or "no links"
    files = sum(len(group.files) for group in groups)
    say(f"{len(sounds)} sounds: {files} of them in {len(groups)} groups ({told}); {len(skipped)} could not be heard")
    raise typer.Exit(int(strict and bool(skipped)))


def _heard(sounds: FileTable, workers: int | None, skipped: list[tuple[str, str]]) -> Iterator[tuple[str, Fingerprint]]:
    """The fingerprints of files of different content; what cannot be heard goes into `skipped`."""
    from clapkit.progress import ProgressBar
    from clapkit.search.curating.versions import hear

    files = [sounds.files[n] for n in sounds.without_copies()]
    count = min(8, os.cpu_count() or 1) if workers is None else workers
    with ProgressBar("listening", len(files), shown=progress_wanted()) as bar:
        for done, (name, heard) in enumerate(hear(files, workers=count), start=1):
            bar.update(done)
            if isinstance(heard, AudioError):
                skipped.append((printable(name), heard.reason))
            else:
                yield name, heard


def _give(groups: Sequence[Group], out: Path | None, *, as_json: bool) -> None:
    from clapkit.files import atomic_file

    plain = [{"files": list(group.files), "links": [asdict(link) for link in group.links]} for group in groups]
    if out is not None:
        text = json.dumps(plain, indent=1, ensure_ascii=False) + "\n" if out.suffix.lower() == ".json" else _csv(groups)
        with atomic_file(out) as file:
            file.write(text.encode())
        say(f"all groups: {out}")
    if as_json:
        print_json(plain)
        return
    rows: list[tuple[Any, ...]] = []
    for number, group in enumerate(groups[:_SHOWN], start=1):
        rows += [(number if n == 0 else "", *_told(link)) for n, link in enumerate(group.links)]
    if rows:
        head = ("group", "kind", "score", "begins at", "file", "in")
        results().print(table("the same sound", head, rows, numbers=("group", "score", "begins at")))
    if len(groups) > _SHOWN:
        say(f"... and {len(groups) - _SHOWN} more groups: --out doubles.csv has them all")


def _told(link: Link) -> tuple[str, str, str, str, str]:
    begins = "" if link.offset_s is None else f"{link.offset_s:.1f} s"
    return link.kind, f"{link.score:.2f}", begins, printable(link.file), printable(link.other)


def _csv(groups: Sequence[Group]) -> str:
    text = io.StringIO(newline="")
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(("group", "kind", "score", "offset_s", "path", "other"))
    for number, group in enumerate(groups, start=1):
        for link in group.links:
            begins = "" if link.offset_s is None else f"{link.offset_s:.3f}"
            lines.writerow((number, link.kind, f"{link.score:.4f}", begins, link.file, link.other))
    return text.getvalue()
