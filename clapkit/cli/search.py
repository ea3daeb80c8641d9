"""clapkit search: sounds of a library by words, by sounds, by both, and by what they should not be."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from clapkit.cli.found import Found, show_csv, show_json, show_m3u, show_table
from clapkit.cli.options import Device, Threads, Trust
from clapkit.cli.terminal import say
from clapkit.errors import AudioError, SearchIndexError, SpecError

if TYPE_CHECKING:
    from clapkit.api import Clap
    from clapkit.library import Index
    from clapkit.search.query import Query, Shown
    from clapkit.search.rows import Row
    from clapkit.search.view import View
    from clapkit.search.where import Filter

_Folder = Annotated[str, typer.Argument(metavar="LIBRARY", help="Folder or URL written by `clapkit index`.")]
_Texts = Annotated[list[str] | None, typer.Argument(metavar="TEXT...", help="What to look for, in words.")]
_Like = Annotated[
    list[str] | None,
    typer.Option(
        "--like", "--audio", metavar="FILE[:FROM-TO]", help="A sound, or seconds of it, or the id of a row. Repeatable."
    ),
]
_Without = Annotated[list[str] | None, typer.Option("--without", help="What should not be heard. Repeatable.")]
_Less = Annotated[float, typer.Option("--less", min=0, help="How much --without counts.")]
_Any = Annotated[bool, typer.Option("--any", help="Like one of the texts and sounds, not like all of them at once.")]
_Words = Annotated[str | None, typer.Option("--words", help="Words in file names, folders, tags and metadata as well.")]
_Where = Annotated[
    list[str] | None, typer.Option("--where", metavar="FILTER", help="'duration_s>=2', 'tags=dog', ... Repeatable.")
]
_Moments = Annotated[bool, typer.Option("--moments", help="Neighbouring windows of a file as one, with start and end.")]
_Variety = Annotated[
    float, typer.Option("--variety", min=0, max=1, help="0: by score alone; up to 1: as varied as can be.")
]
_Copies = Annotated[
    float | None, typer.Option("--copies-above", min=-1, max=1, help="Leave out what is this near to a better result.")
]
_Hubs = Annotated[
    str | None, typer.Option("--hubs", metavar="csls|qbnorm", help="Hold back sounds that are near to every text.")
]
_Exact = Annotated[bool, typer.Option("--exact", help="Compare with every row, also where there is a vector index.")]
_K = Annotated[int, typer.Option("--k", "-k", min=1, help="Number of results.")]
_Model = Annotated[str | None, typer.Option("--model", help="Any model; default: the one that made the library.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
_Csv = Annotated[bool, typer.Option("--csv", help="Print CSV.")]
_M3u = Annotated[bool, typer.Option("--m3u", help="Print a playlist.")]
_REGION = re.compile(r"(.+):(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)")
_ROW_ID = re.compile("[0-9a-f]{20}")

_EXAMPLES = """
Examples:

clapkit search lib "glass breaking"

clapkit search lib "a dog barking" --without rain --where "duration_s>=0.5"

clapkit search lib --like door.wav:1.5-3 --variety 0.5 -k 20

clapkit search lib footsteps --words gravel --where "folder under foley" --csv

clapkit search lib "a phone rings" --moments --m3u > phones.m3u
"""


@dataclass(frozen=True)
class _Wanted:
    """What was asked for, as it was typed."""

    texts: Sequence[str]
    like: Sequence[str]
    without: Sequence[str]
    less: float
    joined: str
    words: str | None
    where: Sequence[str]
    moments: bool
    variety: float
    copies_above: float | None
    hubs: str | None
    exact: bool

    @property
    def title(self) -> str:
        parts = [" + ".join((*self.texts, *self.like)) or str(self.words)]
        parts += [f"without {text}" for text in self.without]
        return ", ".join([*parts, *self.where])

    @property
    def is_plain(self) -> bool:
        """Whether it is no more than an index of the older kind can answer."""
        others = (self.without, self.words, self.where, self.moments, self.variety, self.hubs)
        single = len(self.texts) < 2 and len(self.like) < 2 and self.joined == "mean"
        return single and self.copies_above is None and not any(others)


def add_to(app: typer.Typer) -> None:
    app.command("search", epilog=_EXAMPLES)(search)


def search(
    folder: _Folder,
    texts: _Texts = None,
    like: _Like = None,
    without: _Without = None,
    less: _Less = 0.5,
    any_of: _Any = False,
    words: _Words = None,
    where: _Where = None,
    moments: _Moments = False,
    variety: _Variety = 0.0,
    copies_above: _Copies = None,
    hubs: _Hubs = None,
    exact: _Exact = False,
    k: _K = 10,
    model: _Model = None,
    as_json: _Json = False,
    as_csv: _Csv = False,
    as_m3u: _M3u = False,
    device: Device = "auto",
    threads: Threads = None,
    trust: Trust = None,
) -> None:
    """Find the sounds of a library that are nearest to words, to sounds, or to both.

    The score is a cosine: 1 at best. It compares results of one search, not of different ones. With --words and --hubs
    it is a number that orders one list only.
    """
    wanted = _Wanted(
        texts=texts or (),
        like=like or (),
        without=without or (),
        less=less,
        joined="any" if any_of else "mean",
        words=words,
        where=where or (),
        moments=moments,
        variety=variety,
        copies_above=copies_above,
        hubs=hubs,
        exact=exact,
    )
    show = _shower(as_json=as_json, as_csv=as_csv, as_m3u=as_m3u)
    _check(wanted)
    from clapkit.library import Index

    index = Index.open(folder, model, device=device, threads=threads, trust=trust or ())
    if index.model is None:
        raise SearchIndexError(f"the model that made {folder} is not where it was: name it with --model RUN")
    if index.note:
        say(f"note: {index.note}")
    found = _in_exact(index, wanted, k, folder) if index.store is None else _in_store(index, wanted, k)
    _tell_of_missing(found, folder)
    if show is not None:
        show(found)
        return
    rows = "sounds" if index.store is None else "windows"
    show_table(found, f"{wanted.title}: {len(found)} of {len(index)} {rows}")


def _shower(*, as_json: bool, as_csv: bool, as_m3u: bool) -> Any:
    """What prints the results; None: a table. SpecError for several."""
    chosen = [show for show, on in ((show_json, as_json), (show_csv, as_csv), (show_m3u, as_m3u)) if on]
    if len(chosen) > 1:
        raise SpecError("--json, --csv and --m3u: choose one")
    return chosen[0] if chosen else None


def _check(wanted: _Wanted) -> None:
    """What can be told before a model is loaded."""
    if not (wanted.texts or wanted.like or wanted.words):
        raise SearchIndexError("search needs words, --like FILE, or both")
    if any(not text.strip() for text in (*wanted.texts, *wanted.without)):
        raise SearchIndexError("a text to look for is empty: expected words")
    if wanted.hubs not in (None, "csls", "qbnorm"):
        raise SpecError(f"--hubs is csls or qbnorm, not {wanted.hubs!r}")
    if wanted.moments and (wanted.variety or wanted.hubs or wanted.copies_above is not None):
        raise SpecError(
            "--moments joins windows by their scores: --variety, --hubs and --copies-above do not go with it"
        )
    _filters(wanted)


def _filters(wanted: _Wanted) -> list[Filter]:
    """The filters; a path in them that is there from here is meant."""
    from clapkit.search.where import Filter

    filters = [Filter.parse(text) for text in wanted.where]
    return [
        Filter(one.field, one.operator, os.path.abspath(one.value).replace(os.sep, "/"))
        if one.field in ("file", "folder")
        and isinstance(one.value, str)
        and os.path.exists(one.value)
        and one.operator != "contains"
        else one
        for one in filters
    ]


def _in_exact(index: Index, wanted: _Wanted, k: int, folder: str) -> list[Found]:
    from clapkit.library import RENEW

    if not wanted.is_plain:
        raise SearchIndexError(
            f"{folder} is an index of the older kind: it is searched by one text and one sound, nothing more. To have "
            f"windows, filters and the rest, {RENEW}"
        )
    say(f"note: {folder} is an index of the older kind, which does not follow its files; {RENEW}")
    assert index.model is not None
    parts = [index.model.embed_text(wanted.texts), *(_heard(index.model, name) for name in wanted.like)]
    hits = index.search_vector(np.concatenate(parts).sum(axis=0), k)
    return [
        Found(
            hit.id,
            hit.score,
            hit.path or hit.id,
            hit.start_s,
            _end_s(hit.start_s, hit.metadata),
            (),
            dict(hit.metadata),
        )
        for hit in hits
    ]


def _end_s(start_s: float, metadata: Any) -> float | None:
    long_s = metadata.get("duration_s")
    return None if long_s is None else start_s + long_s


def _in_store(index: Index, wanted: _Wanted, k: int) -> list[Found]:
    from clapkit.search.query import find, find_moments

    assert index.store is not None and index.model is not None
    view, clap = index.store.view, index.model
    if not len(view):
        return []
    query = _query(view, clap, wanted)
    if not wanted.moments:
        matches = find(view, query, k, shown=_shown(view, clap, wanted))
        return [_row_found(match.row, match.score) for match in matches]
    moments = find_moments(view, query, k)
    rows = view.rows([moment.id for moment in moments])
    return [
        replace(_row_found(row, moment.score), start_s=round(moment.start_s, 3), end_s=round(moment.end_s, 3))
        for moment, row in zip(moments, rows, strict=True)
    ]


def _row_found(row: Row, score: float) -> Found:
    end_s = round(row.start_s + row.duration_s, 3)
    return Found(row.id, score, row.file, round(row.start_s, 3), end_s, row.tags, dict(row.metadata))


def _query(view: View, clap: Clap, wanted: _Wanted) -> Query:
    from clapkit.search.query import Query

    like = [_row_or_heard(view, clap, name) for name in wanted.like]
    texts = list(wanted.texts)
    if not texts and not like:
        texts = [str(wanted.words)]
    parts = [clap.embed_text(texts), *like] if texts else like
    return Query(
        np.concatenate(parts),
        unlike_MD=clap.embed_text(wanted.without) if wanted.without else None,
        joined=wanted.joined,
        less=wanted.less,
        words=wanted.words,
        where=_filters(wanted),
        exact=wanted.exact,
    )


def _shown(view: View, clap: Clap, wanted: _Wanted) -> Shown:
    from clapkit.search.indexing.texts import texts_like_queries
    from clapkit.search.query import Shown

    bank_BD = clap.embed_text(texts_like_queries(view)) if wanted.hubs else None
    return Shown(
        copies_above=wanted.copies_above,
        relevance=1 - wanted.variety if wanted.variety else None,
        bank_BD=bank_BD,
        corrected=wanted.hubs or "csls",
    )


def _row_or_heard(view: View, clap: Clap, name: str) -> np.ndarray:
    if _ROW_ID.fullmatch(name) and not os.path.exists(name):
        return view.vectors([name])
    return _heard(clap, name)


def _heard(clap: Clap, name: str) -> np.ndarray:
    """The vector [1, d] of a file, or of some seconds of it. AudioError for what cannot be heard."""
    from clapkit.audio.decode import decode

    region = _REGION.fullmatch(name)
    if region is None or os.path.exists(name):
        return clap.embed_audio([name])
    start_s, end_s = float(region[2]), float(region[3])
    if end_s <= start_s:
        raise AudioError(region[1], f"the seconds {region[2]}-{region[3]}: expected a start before the end")
    sound = decode(region[1], rate_hz=clap.rate_hz, start_s=start_s, duration_s=end_s - start_s)
    return clap.embed_audio([(sound.samples, clap.rate_hz)])


def _tell_of_missing(found: Sequence[Found], folder: str) -> None:
    missing = sum(not os.path.isfile(path) for path in {one.path for one in found})
    if missing:
        say(
            f"note: {missing} of these files are not where they were: "
            f"`clapkit index {folder}` brings the library up to date"
        )
