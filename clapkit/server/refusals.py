"""What the server answers when it cannot do what was asked: always JSON, always with the reason.

{"error": {"message": "k is 0: expected 1 to 500", "type": "bad_request"}}
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from clapkit.errors import AudioError, ClapkitError, SearchIndexError

_KINDS = {
    400: "malformed",
    401: "no_key",
    403: "forbidden",
    404: "not_found",
    405: "not_allowed",
    408: "too_slow",
    410: "gone",
    413: "too_large",
    415: "unknown_content",
    416: "bad_range",
    422: "bad_request",
    429: "too_many_requests",
    500: "internal",
    501: "not_served",
    503: "unavailable",
}
CLOSE = {"Connection": "close"}
_SHOWN_CHARACTERS = 500  # of a message: what a caller sent may be long, and need not come back whole
_log = logging.getLogger("clapkit.server")


class Refusal(Exception):
    """An answer other than what was asked for: an HTTP status and the reason, in words for whoever asked."""

    def __init__(self, status: int, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        self.status, self.message, self.headers = status, message, dict(headers or {})
        super().__init__(message)

    @classmethod
    def busy(cls, message: str, *, after_s: int = 1, close: bool = False) -> Refusal:
        """Status 429: there is too much at once, and in `after_s` seconds there may be less.

        close   end the connection: what comes on it is not wanted
        """
        headers = {"Retry-After": str(after_s)}
        return cls(429, message, headers={**headers, **CLOSE} if close else headers)

    def response(self) -> JSONResponse:
        message = self.message if len(self.message) <= _SHOWN_CHARACTERS else self.message[:_SHOWN_CHARACTERS] + "..."
        kind = _KINDS.get(self.status, "refused")
        body = {"error": {"message": message, "type": kind}}
        return AsciiJSON(body, status_code=self.status, headers=self.headers)


class AsciiJSON(JSONResponse):
    """JSON in which characters beyond ASCII are escaped: names of files need not be valid Unicode."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


class Problem(BaseModel):
    """What went wrong: `message` in words, `type` as a name."""

    message: str
    type: str


class Refused(BaseModel):
    """The body of every answer whose status is not 2xx."""

    error: Problem


# For the OpenAPI description of every route.
RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Refused, "description": "What was asked for cannot be done; the message says why"},
    "5XX": {"model": Refused, "description": "Something in the server failed, or took too long"},
}


def add_handlers(app: FastAPI) -> None:
    """Turn every exception into an answer of the same shape."""
    app.add_exception_handler(Refusal, _of_refusal)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(ClapkitError, _of_clapkit)
    app.add_exception_handler(ClientDisconnect, _of_leaving)
    app.add_exception_handler(Exception, _of_surprise)


async def _of_refusal(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refusal)
    return error.response()


async def _of_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    message = str(error.detail)
    if error.status_code == 404:
        message = f"there is no {request.url.path} here: /docs lists what there is"
    elif error.status_code == 405:
        message = f"{request.url.path} does not take {request.method}: /docs says what it takes"
    return Refusal(error.status_code, message, headers=error.headers).response()


async def _of_validation(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    told = "; ".join(f"{'.'.join(map(str, found['loc'][1:])) or 'body'}: {found['msg']}" for found in error.errors())
    return Refusal(422, told).response()


async def _of_clapkit(_: Request, error: Exception) -> JSONResponse:
    if isinstance(error, AudioError):
        return Refusal(422, f"the sound cannot be used: {error.reason}").response()
    if isinstance(error, SearchIndexError):
        _log.error("the index cannot be read: %s", error)
        return Refusal(503, "the index cannot be read now; the log of the server has the reason").response()
    return Refusal(422, str(error)).response()


async def _of_leaving(_: Request, error: Exception) -> JSONResponse:
    return Refusal(400, "the connection was closed before the body had come").response()


async def _of_surprise(_: Request, error: Exception) -> JSONResponse:
    return Refusal(500, "something in the server failed; its log has the reason").response()
