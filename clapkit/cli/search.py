"""clapkit search: sounds of an index by words, by sound, or by both."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clapkit.cli.options import Trust
from clapkit.cli.sounds import printable
from clapkit.cli.terminal import print_json, results, say, table
from clapkit.errors import SearchIndexError

_Folder = Annotated[Path, typer.Argument(metavar="INDEX", help="Folder written by `clapkit index`.")]
_Text = Annotated[str | None, typer.Argument(help="What to look for, in words.")]
_Audio = Annotated[Path | None, typer.Option("--audio", help="Sound to look for, alone or together with the words.")]
_K = Annotated[int, typer.Option("--k", min=1, help="Number of results.")]
_Model = Annotated[str | None, typer.Option("--model", help="Any model; default: the one that made the index.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def add_to(app: typer.Typer) -> None:
    app.command("search", epilog="Example:  clapkit search recordings.index 'a dog barking' --k 5")(search)


def search(
    folder: _Folder,
    text: _Text = None,
    audio: _Audio = None,
    k: _K = 10,
    model: _Model = None,
    as_json: _Json = False,
    trust: Trust = None,
) -> None:
    """Find the sounds of an index that are nearest to words, to a sound, or to both.

    The score is a cosine: 1 at best. It compares results of one search, not of different ones.
    """
    if text is None and audio is None:
        raise SearchIndexError("search needs words, --audio FILE, or both")
    from clapkit.api import load
    from clapkit.library import Index

    index = Index.open(folder, load(model, trust=trust or ()) if model else None)
    if index.model is None:
        raise SearchIndexError(f"the model that made {folder} is not where it was: name it with --model RUN")
    if index.note:
        say(f"note: {index.note}")
    hits = index.search(text=text, audio=None if audio is None else str(audio), k=k)
    if as_json:
        print_json([{**vars(hit), "path": printable(hit.path or ""), "id": printable(hit.id)} for hit in hits])
        return
    rows = [
        (n, f"{hit.score:.3f}", f"{hit.start_s:.1f} s", printable(hit.path or hit.id)) for n, hit in enumerate(hits, 1)
    ]
    wanted = " + ".join(filter(None, (text, str(audio or ""))))
    title = f"{wanted}: {len(hits)} of {len(index)} sounds"
    results().print(table(title, ("", "score", "starts at", "file"), rows, numbers=("", "score", "starts at")))
