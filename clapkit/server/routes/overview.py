"""What there is: filters with their counts, a map of all files, and where in one file something is heard."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query

from clapkit.search.query import Query as StoreQuery
from clapkit.search.rerank import moments
from clapkit.server.desk import Desk
from clapkit.server.limits import checked_count
from clapkit.server.overview.facets import facets
from clapkit.server.overview.points import points
from clapkit.server.refusals import AsciiJSON, Refusal
from clapkit.server.routes.shapes import AtDesk, Filters, Map, Moments, RowId
from clapkit.server.rows import StoreRows
from clapkit.server.wanted import checked_search

router = APIRouter()

_LONGEST_WAIT_S = 30.0
_WITHIN = 0.1  # of the best cosine: what is a moment, as in a search for moments


@router.get("/filters", response_model=Filters, summary="What can be filtered by")
async def filters(desk: AtDesk) -> AsciiJSON:
    """Fields for `where`, tags, folders and durations, with counts."""
    rows = desk.store("filters")
    return AsciiJSON(await _once(desk, "filters", partial(facets, rows, desk.shelf)))


@router.get("/map", response_model=Map, summary="All files in the plane")
async def map(
    desk: AtDesk,
    limit: Annotated[int | None, Query(description="how many points; default: the most there are")] = None,
    wait_s: Annotated[float, Query(description="how long to wait for places that are final; 0 to 30")] = 20.0,
) -> AsciiJSON:
    """Files as points, those that sound alike side by side. It is made once for each version of the store.

    Who does not wait for the end of it gets places at once that say less, with `final` false.
    """
    rows, most = desk.store("map"), desk.limits.points
    wanted = checked_count(most if limit is None else limit, name="limit", most=most)
    if not 0 <= wait_s <= _LONGEST_WAIT_S:
        raise Refusal(422, f"wait_s is {wait_s}: expected 0 to {_LONGEST_WAIT_S:g}")
    first = await _once(desk, "sketch", partial(points, rows, desk.shelf, most=most, neighbours=False))
    better = _begun(desk, "map", partial(points, rows, desk.shelf, most=most, neighbours=True))
    done, _ = await asyncio.wait([better], timeout=wait_s)
    whole = better.result() if done else first
    there = whole["points"]
    if len(there) > wanted:
        there = [there[n] for n in np.linspace(0, len(there) - 1, wanted).astype(int)]
    return AsciiJSON({**whole, "points": there})


@router.get("/moments/{id}", response_model=Moments, summary="Where in a file it is heard")
async def moments_of(
    desk: AtDesk,
    id: RowId,
    text: Annotated[list[str], Query(default_factory=list, description="what to look for; repeatable")],
    without: Annotated[list[str], Query(default_factory=list, description="what it should not sound like")],
) -> AsciiJSON:
    """All windows of the file of a row with their cosines, and the best stretches of it."""
    rows = desk.store("windows")
    if not text:
        raise Refusal(422, "there is nothing to look for: give a text")
    row = await desk.row(id)
    query = await desk.query(checked_search(desk.limits, text=text, without=without))
    assert row.file is not None, "rows of a store have files"
    return AsciiJSON(await desk.searching(_heard, rows, row.file, query))


def _begun(desk: Desk, what: str, work: Callable[[], Any]) -> asyncio.Task[Any]:
    """Work that is done once for this desk, in a thread; who waits for it may leave, and it goes on."""
    task = desk.kept.get(what)
    if task is None or (task.done() and (task.cancelled() or task.exception())):
        task = desk.kept[what] = asyncio.ensure_future(desk.staff.surveying.run(work))
    return task


async def _once(desk: Desk, what: str, work: Callable[[], Any]) -> Any:
    return await asyncio.shield(_begun(desk, what, work))


def _heard(rows: StoreRows, file: str, query: StoreQuery) -> dict[str, Any]:
    windows = rows.view.windows_of(file)
    scores_N = query.scores(rows.view.vectors([row.id for row in windows]))
    best = [n for n, score in enumerate(scores_N.tolist()) if score >= scores_N.max() - _WITHIN]
    joined = moments([windows[n] for n in best], [scores_N[n] for n in best])
    spans = [(row.start_s, row.start_s + row.duration_s, score) for row, score in zip(windows, scores_N, strict=True)]
    return {
        "windows": [_stretch(*span) for span in spans],
        "moments": [_stretch(moment.start_s, moment.end_s, moment.score) for moment in joined],
    }


def _stretch(start_s: float, end_s: float, score: float) -> dict[str, float]:
    return {"start_s": start_s, "end_s": end_s, "score": float(score)}
