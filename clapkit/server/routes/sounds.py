"""The indexed sounds themselves, and pictures of them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.datastructures import Headers
from starlette.responses import FileResponse, Response
from starlette.types import Message, Receive, Scope, Send

from clapkit.server.limits import checked_count, checked_start
from clapkit.server.refusals import AsciiJSON, Refusal
from clapkit.server.routes.shapes import AtDesk, Found, RowId, shown

router = APIRouter()

_MOST_PIXELS = 4096
_AUDIO: dict[int | str, dict[str, Any]] = {
    200: {"content": {"audio/*": {}}},
    206: {"description": "the range that was asked for"},
}
_PNG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": {}}}}


@router.get("/sounds/{id}", response_model=Found, summary="What is known of an indexed sound")
async def sound(desk: AtDesk, id: RowId) -> AsciiJSON:
    """One row."""
    return AsciiJSON(shown(desk, await desk.row(id), None))


class _SoundFile(FileResponse):
    """A file, or the ranges of it that are asked for; those that cannot be had are refused as everything else is."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused: Message | None = None

        async def pass_on(message: Message) -> None:
            nonlocal refused
            if message["type"] == "http.response.start" and message["status"] in (400, 416):
                refused = message
            elif refused is None:
                await send(message)

        await super().__call__(scope, receive, pass_on)
        if refused is not None:
            asked = Headers(scope=scope).get("range", "")
            told = Headers(raw=refused["headers"]).get("content-range")
            more = "expected bytes=FROM-TO" if told is None else f"it has {told.partition('/')[2]} bytes"
            refusal = Refusal(refused["status"], f"the range '{asked}' of the file cannot be sent: {more}")
            refusal.headers |= {} if told is None else {"Content-Range": told}
            await refusal.response()(scope, receive, send)


@router.head("/audio/{id}", response_class=FileResponse, include_in_schema=False)
@router.get("/audio/{id}", response_class=FileResponse, responses=_AUDIO, summary="An indexed sound")
async def audio(desk: AtDesk, id: RowId) -> FileResponse:
    """The file of a row as it is on disk; `Range` gives parts of it."""
    path, media_type = desk.shelf.find(await desk.row(id))
    # A browser is to play it, whatever is in it, and never to take it for a page.
    return _SoundFile(path, media_type=media_type, headers={"X-Content-Type-Options": "nosniff"})


@router.get("/spectrogram/{id}.png", response_class=Response, responses=_PNG, summary="A picture of an indexed sound")
async def spectrogram(
    desk: AtDesk,
    id: RowId,
    width: Annotated[int, Query(description="pixels; 1 to 4096")] = 800,
    height: Annotated[int, Query(description="pixels; 1 to 4096")] = 128,
    start_s: Annotated[float | None, Query(description="where in the file; default: where the row starts")] = None,
    duration_s: Annotated[float | None, Query(description="how much of it; default: the row")] = None,
) -> Response:
    """Mel spectrogram as PNG: time to the right, frequency upwards, level as colour, 80 dB below the loudest."""
    checked_count(width, name="width", most=_MOST_PIXELS)
    checked_count(height, name="height", most=_MOST_PIXELS)
    row = await desk.row(id)
    most_s = desk.limits.spectrogram_s
    length_s = duration_s if duration_s is not None else row.duration_s or most_s
    if not 0 < length_s < float("inf"):
        raise Refusal(422, f"duration_s is {length_s}: expected a number of seconds above 0")
    from_s = row.start_s if start_s is None else checked_start(start_s)
    picture = await desk.spectrogram(row, start_s=from_s, duration_s=min(length_s, most_s), width=width, height=height)
    return Response(picture, media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})
