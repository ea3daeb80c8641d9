"""Search by words, by sound, by both, and by what is in the index already."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request

from clapkit.server.limits import checked_count
from clapkit.server.refusals import AsciiJSON
from clapkit.server.routes.shapes import AtDesk, Results, RowId, form_body, results
from clapkit.server.uploads import read_form
from clapkit.server.wanted import FIELDS, JOINED, checked_search, refuse_unknown, searched_by

router = APIRouter()

_WORDS: dict[str, Any] = {"type": "string", "minLength": 1}
_SEVERAL: dict[str, Any] = {"type": "array", "items": _WORDS}
_COUNT: dict[str, Any] = {"type": "integer", "minimum": 1, "default": 10}
_FORM: dict[str, dict[str, Any]] = {
    "text": _SEVERAL,
    "without": _SEVERAL,
    "k": _COUNT,
    "where": _SEVERAL,
    "words": _WORDS,
    "like": _SEVERAL,
    "joined": {"type": "string", "enum": list(JOINED), "default": "mean"},
    "moments": {"type": "boolean", "default": False},
    "variety": {"type": "number", "minimum": 0, "maximum": 1, "default": 0},
    "copies_above": {"type": "number", "minimum": -1, "maximum": 1},
    "exact": {"type": "boolean", "default": False},
    "start_s": {"type": "number", "minimum": 0, "description": "where in the uploaded sound to begin"},
    "end_s": {"type": "number", "description": "where in the uploaded sound to end"},
}
_ONLY_OF_SOUNDS = ("start_s", "end_s")
_K = Annotated[int, Query(description="how many rows")]


def _several(told: str) -> Any:
    return Query(default_factory=list, description=told)


@router.get("/search", response_model=Results, summary="Search by words, and by rows")
async def search_by_words(
    request: Request,
    desk: AtDesk,
    text: Annotated[list[str], _several("what to look for; repeatable")],
    without: Annotated[list[str], _several("what it should not sound like; repeatable")],
    where: Annotated[list[str], _several("a filter that has to hold, such as duration_s>=0.5; repeatable")],
    like: Annotated[list[str], _several("id of a row that it should be like, or ID:FROM-TO in seconds; repeatable")],
    k: _K = 10,
    words: Annotated[str | None, Query(description="looked up in names, tags and metadata too")] = None,
    joined: Annotated[Literal["mean", "any"], Query(description="like all examples at once, or like any")] = "mean",
    moments: Annotated[bool, Query(description="stretches of files: rows side by side in one")] = False,
    variety: Annotated[float, Query(description="0: the best; 1: the most different")] = 0.0,
    copies_above: Annotated[float | None, Query(description="leave out rows this near to a better one")] = None,
    exact: Annotated[bool, Query(description="compare with every row")] = False,
) -> AsciiJSON:
    """The rows nearest to texts, and to rows, best first."""
    refuse_unknown(
        [name for name, _ in request.query_params.multi_items()],
        [name for name in FIELDS if name not in _ONLY_OF_SOUNDS],
    )
    wanted = checked_search(
        desk.limits,
        text=text,
        without=without,
        like=like,
        where=where,
        words=words,
        k=k,
        joined=joined,
        moments=moments,
        variety=variety,
        copies_above=copies_above,
        exact=exact,
    )
    return AsciiJSON(results(desk, await desk.find(wanted)))


@router.post(
    "/search",
    response_model=Results,
    summary="Search by sound, or by sound and words",
    openapi_extra=form_body(sound_required=False, **_FORM),
)
async def search_by_sound(request: Request, desk: AtDesk) -> AsciiJSON:
    """The rows nearest to a sound, to texts, to rows, or to all of them; the sound is not stored."""
    wanted = searched_by(await read_form(request, desk.limits, fields=FIELDS), desk.limits)
    return AsciiJSON(results(desk, await desk.find(wanted)))


@router.get("/similar/{id}", response_model=Results, summary="Sounds like an indexed one")
async def similar(desk: AtDesk, id: RowId, k: _K = 10) -> AsciiJSON:
    """The rows nearest to a row, itself left out."""
    checked_count(k, name="k", most=desk.limits.results)
    found = await desk.nearest(await desk.vector(id), k + 1)
    return AsciiJSON(results(desk, [(row, score) for row, score in found if row.id != id][:k]))
