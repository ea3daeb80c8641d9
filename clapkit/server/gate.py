"""What every request passes before anything is done for it: the key, the bounds on number, size and time."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clapkit.server.limits import Limits
from clapkit.server.metrics import Meters
from clapkit.server.refusals import CLOSE, Refusal
from clapkit.server.routes.pages import PREFIX

# Functions in the state of a request, where the server has them: one drops its connection, the other says whether more
# connections are open than there should be.
ABORT, CROWDED = "clapkit_abort", "clapkit_crowded"
_OPEN_TO_ALL = ("/healthz",)
# What the page is made of says nothing of the library, and is what asks people for the key.
_NEEDS_NO_KEY = (*_OPEN_TO_ALL, "/")
_DRAIN_S = 2.0  # what is read and thrown away of a body that is too large, so that its sender gets to our answer
_DRAIN_BODIES = 4


class Gate:
    """ASGI middleware: refuses with 401, 408, 413 and 429, with 503 where no answer comes in time, and counts.

    The time limit ends when the answer begins; from there on, only a client that takes nothing is cut off.
    """

    def __init__(self, app: ASGIApp, *, limits: Limits, api_key: str | None, meters: Meters) -> None:
        self._app, self._limits, self._meters = app, limits, meters
        self._key = None if api_key is None else _digest(api_key)
        self._under_way = 0
        self._of_client: Counter[str] = Counter()
        self._bodies = _Bodies()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = (scope.get("client") or ("", 0))[0]
        exchange = _Exchange(receive, send, self._limits, self._bodies)
        began = time.perf_counter()
        self._meters.begun()
        self._under_way += 1
        self._of_client[client] += 1
        try:
            await self._answer(scope, exchange, client)
        finally:
            self._under_way -= 1
            self._bodies.held_bytes -= exchange.got_bytes
            self._of_client[client] -= 1
            if not self._of_client[client]:
                del self._of_client[client]
            route = getattr(scope.get("route"), "path", "none")
            self._meters.answered(route, exchange.status or 499, time.perf_counter() - began)

    async def _answer(self, scope: Scope, exchange: _Exchange, client: str) -> None:
        try:
            async with asyncio.timeout(self._limits.answer_s) as clock:
                exchange.clock = clock
                self._check(scope, client)
                await exchange.check_length(Headers(scope=scope))
                await self._app(scope, exchange.receive, exchange.send)
        except TimeoutError:
            if exchange.status is None:
                message = f"there was no answer within {self._limits.answer_s:g} s: try again later"
                await _refuse(Refusal(503, message, headers=CLOSE), scope, exchange)
            elif abort := scope.get("state", {}).get(ABORT):
                abort()  # closing would wait until the client has taken what is buffered
        except Refusal as refusal:
            await _refuse(refusal, scope, exchange)

    def _check(self, scope: Scope, client: str) -> None:
        path = scope["path"]
        is_open = path in _NEEDS_NO_KEY or path.startswith(PREFIX)
        if self._key is not None and not is_open and not _has_key(Headers(scope=scope), self._key):
            message = "this server wants a key: send 'Authorization: Bearer KEY' or 'X-API-Key: KEY'"
            raise Refusal(401, message, headers={"WWW-Authenticate": "Bearer", **CLOSE})
        if path in _OPEN_TO_ALL:
            return
        if self._of_client[client] > self._limits.requests_per_client:
            message = f"more than {self._limits.requests_per_client} requests of yours are under way: wait for some"
            raise Refusal.busy(message, close=True)
        if self._under_way > self._limits.requests:
            message = f"more than {self._limits.requests} requests are under way: try again in a moment"
            raise Refusal.busy(message, close=True)
        if (crowded := scope.get("state", {}).get(CROWDED)) and crowded():
            message = f"more than {self._limits.connections} connections are open: try again in a moment"
            raise Refusal.busy(message, close=True)


@dataclass
class _Bodies:
    """What all requests under way hold of their bodies."""

    held_bytes: int = 0


class _Exchange:
    """One request and its answer, watched while they pass."""

    def __init__(self, receive: Receive, send: Send, limits: Limits, bodies: _Bodies) -> None:
        self._receive, self._send, self._limits, self._bodies = receive, send, limits, bodies
        self._body_ends_by = asyncio.get_running_loop().time() + limits.body_s
        self.got_bytes = 0
        self._is_whole = False
        self.status: int | None = None
        self.clock: asyncio.Timeout | None = None

    async def check_length(self, headers: Headers) -> None:
        """Refusal (413) for a body that says itself that it is too long."""
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length[:20]) > self._limits.body_bytes:
            # Who asks before sending (Expect: 100-continue) is answered, and need not send.
            await self._refuse_size(drain="expect" not in headers)

    async def receive(self) -> Message:
        if self._is_whole:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._body_ends_by):
                message = await self._receive()
        except TimeoutError:
            raise Refusal(408, f"the body did not come within {self._limits.body_s:g} s", headers=CLOSE) from None
        if message["type"] == "http.request":
            count = len(message.get("body", b""))
            self.got_bytes += count
            self._bodies.held_bytes += count
            self._is_whole = not message.get("more_body", False)
            if self.got_bytes > self._limits.body_bytes:
                await self._refuse_size(drain=not self._is_whole)
            if self._bodies.held_bytes > self._limits.bodies_bytes:
                told = "too much is being uploaded: try again in a moment"
                raise Refusal.busy(told, after_s=2, close=True)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.clock is not None:
                self.clock.reschedule(None)
        async with asyncio.timeout(self._limits.send_s):
            await self._send(message)

    async def _refuse_size(self, *, drain: bool) -> None:
        if drain:
            await self._drain()
        message = f"the body is too large: expected at most {self._limits.body_bytes} bytes"
        raise Refusal(413, message, headers=CLOSE)

    async def _drain(self) -> None:
        left = _DRAIN_BODIES * self._limits.body_bytes
        try:
            async with asyncio.timeout(_DRAIN_S):
                while left > 0:
                    message: dict[str, Any] = dict(await self._receive())
                    left -= len(message.get("body", b""))
                    if message["type"] != "http.request" or not message.get("more_body", False):
                        return
        except TimeoutError:
            return


async def _refuse(refusal: Refusal, scope: Scope, exchange: _Exchange) -> None:
    exchange.clock = None  # it has ended
    await refusal.response()(scope, exchange.receive, exchange.send)


def _digest(word: str) -> bytes:
    return hashlib.sha256(word.encode("utf-8", "surrogatepass")).digest()


def _has_key(headers: Headers, key: bytes) -> bool:
    """Whether one of the two headers holds the key; digests have one length, and comparing takes the same time."""
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    given = [headers.get("x-api-key", ""), bearer.strip() if scheme.lower() == "bearer" else ""]
    return max(*(hmac.compare_digest(_digest(word), key) for word in given))  # both are compared in any case
