"""The application on a socket, with patience for nobody who takes for ever to say what he wants."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from clapkit.server.gate import ABORT, CROWDED
from clapkit.server.limits import Limits

_HEAD_BYTES = 256 << 10  # so that a text that is too long is told so, and not that its request is invalid
_KEEP_ALIVE_S = 5
_SHUTDOWN_S = 10


def server_of(app: FastAPI, *, limits: Limits, host: str = "127.0.0.1", port: int = 8000) -> uvicorn.Server:
    """A server that is ready to `run()`, with the connection limits that an application cannot keep itself.

    `port` 0 lets the system choose.
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=_patient(limits),
        ws="none",
        lifespan="on",
        access_log=False,
        server_header=False,
        log_level="warning",
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_SHUTDOWN_S,
        h11_max_incomplete_event_size=_HEAD_BYTES,
    )
    return uvicorn.Server(config)


def _patient(limits: Limits) -> type[H11Protocol]:
    """A protocol that closes a connection whose next request has begun, or was to begin, and is not there in time.

    uvicorn itself waits for ever for the end of a head: a thousand clients that send a byte a minute would fill it. And
    it answers by itself, without a reason, when there are many connections: here the application is told of them.
    """

    class PatientProtocol(H11Protocol):
        _head_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            _send_at_once(transport)
            self.app_state = {**self.app_state, ABORT: transport.abort, CROWDED: self._is_crowded}
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _is_crowded(self) -> bool:
            return len(self.connections) > limits.connections

        def _watch(self) -> None:
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop()
            elif self._head_timer is None:
                self._head_timer = self.loop.call_later(limits.head_s, self._give_up)

        def _stop(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _give_up(self) -> None:
            self._head_timer = None
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()

    return PatientProtocol


def _send_at_once(transport: Any) -> None:
    """Let the body of an answer not wait until the client has confirmed the head, which takes 40 ms or more.

    asyncio does so itself only for sockets that it has opened itself.
    """
    with suppress(OSError, AttributeError):  # no socket of that kind
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
