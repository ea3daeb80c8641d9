"""clapkit playlist: sounds of a library that go with examples, in an order to listen to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from clapkit.cli.inputs import open_store
from clapkit.cli.options import Device, Threads, Trust
from clapkit.cli.sounds import printable
from clapkit.cli.terminal import print_json, results, say, table
from clapkit.errors import SpecError

if TYPE_CHECKING:
    from clapkit.api import Clap
    from clapkit.search.curating.files import FileTable
    from clapkit.search.curating.playlist import Entry

_Folder = Annotated[str, typer.Argument(metavar="LIBRARY", help="Folder or URL written by `clapkit index`.")]
_From = Annotated[
    list[str] | None,
    typer.Option("--from", metavar="FILE", help="A sound to go by, wherever it is. Repeatable."),
]
_Text = Annotated[list[str] | None, typer.Option("--text", help="Words to go by, alone or with sounds. Repeatable.")]
_Weight = Annotated[float, typer.Option("--text-weight", help="Share of the words beside sounds, from 0 to 1.")]
_Any = Annotated[bool, typer.Option("--any", help="Like one of the examples each, not like all of them at once.")]
_Length = Annotated[int, typer.Option("--length", min=1, help="Sounds at most.")]
_Minutes = Annotated[float | None, typer.Option("--minutes", help="No longer together than this.")]
_Variety = Annotated[float, typer.Option("--variety", help="0: the nearest alone; towards 1: unlike each other.")]
_Smooth = Annotated[
    bool, typer.Option("--smooth", help="Order by short steps, from the first example to the last, not by score.")
]
_Out = Annotated[Path | None, typer.Option("--out", help="Write a playlist: .m3u8, or .json with scores.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
_Model = Annotated[str | None, typer.Option("--model", help="Default: the model that made the library.")]
_EXAMPLES = """
Examples:

clapkit playlist lib --from rain.wav --from wind.wav --out evening.m3u8

clapkit playlist lib --from storm.wav --text "calm and quiet" --text-weight 0.3 --minutes 60

clapkit playlist lib --from dawn.wav --from night.wav --any --smooth   (a way from the one to the other)
"""


def add_to(app: typer.Typer) -> None:
    app.command("playlist", epilog=_EXAMPLES)(playlist)


def playlist(
    folder: _Folder,
    like: _From = None,
    text: _Text = None,
    text_weight: _Weight = 0.5,
    any_of: _Any = False,
    length: _Length = 30,
    minutes: _Minutes = None,
    variety: _Variety = 0.3,
    smooth: _Smooth = False,
    out: _Out = None,
    as_json: _Json = False,
    model: _Model = None,
    device: Device = "auto",
    threads: Threads = None,
    trust: Trust = None,
) -> None:
    """Make a playlist out of a library: sounds like the examples and the words, without copies, and various.

    The examples themselves are left out. A sound of the library is not heard again; one from elsewhere is embedded.
    """
    if not like and not text:
        raise SpecError("a playlist needs something to go by: --from FILE, --text WORDS, or both")
    if any(not words.strip() for words in text or ()):
        raise SpecError("a text to go by is empty: expected words")
    if out is not None and out.suffix.lower() not in (".m3u8", ".m3u", ".json"):
        raise SpecError(f"--out {out}: expected a name that ends in .m3u8 or .json")
    from clapkit.search.curating.files import file_table
    from clapkit.search.curating.playlist import Wish, make_playlist

    index = open_store(folder, model, device=device, threads=threads, trust=trust or ())
    assert index.store is not None and index.model is not None
    sounds = file_table(index.store.view)
    examples = [_as_named(sounds, name) for name in like or ()]
    wish = Wish(
        _vectors(index.model, sounds, examples) if examples else None,
        index.model.embed_text(text) if text else None,
        text_weight=text_weight,
        joined="any" if any_of else "mean",
    )
    entries = make_playlist(
        sounds, wish, length=length, minutes=minutes, variety=variety, smooth=smooth, left_out=examples
    )
    _give(entries, out, as_json=as_json)
    raise typer.Exit(int(not entries))


def _as_named(sounds: FileTable, name: str) -> str:
    """The name that a file has in the library, where it is there."""
    full = os.path.abspath(name).replace(os.sep, "/")
    return full if full in sounds.files else name


def _vectors(clap: Clap, sounds: FileTable, examples: list[str]) -> np.ndarray:
    known = {file: n for n, file in enumerate(sounds.files)}
    outside = [name for name in examples if name not in known]
    heard = dict(zip(outside, clap.embed_audio(outside), strict=True)) if outside else {}
    return np.stack([heard[name] if name in heard else sounds.vectors_FD[known[name]] for name in examples])


def _give(entries: list[Entry], out: Path | None, *, as_json: bool) -> None:
    import json

    from clapkit.files import atomic_file
    from clapkit.search.curating.playlist import write_m3u8

    plain = [{"path": printable(e.file), "score": e.score, "duration_s": e.duration_s} for e in entries]
    if out is not None and out.suffix.lower() == ".json":
        with atomic_file(out) as file:
            file.write((json.dumps(plain, indent=1, ensure_ascii=False) + "\n").encode())
    elif out is not None:
        write_m3u8(out, entries)
    if as_json:
        print_json(plain)
    elif out is None:
        rows = [
            (n, f"{e.score:.3f}", f"{e.duration_s:.1f} s", printable(e.file)) for n, e in enumerate(entries, start=1)
        ]
        results().print(table("playlist", ("", "score", "length", "file"), rows, numbers=("", "score", "length")))
    seconds = round(sum(entry.duration_s for entry in entries))
    where = f": {out}" if out is not None else ""
    say(f"{len(entries)} sounds, {seconds // 60}:{seconds % 60:02d}{where}")
