"""Connections: what comes back over them comes at once."""

from __future__ import annotations

import socket
import threading
import time

import httpx2 as httpx

from clapkit.server.app import create_app
from clapkit.server.limits import Limits
from clapkit.server.rows import ExactRows
from clapkit.server.run import server_of


def test_answers_do_not_wait_for_the_confirmation_of_their_heads(served):
    """On a socket that asyncio has not opened itself, Nagle's algorithm held every body back for 40 ms."""
    server = server_of(create_app(ExactRows(served.index), served.clap), limits=Limits(), port=0)
    listening = server.config.bind_socket()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        with httpx.Client(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}") as client:
            assert client.get("/healthz").status_code == 200
            (connection,) = server.server_state.connections
            line = connection.transport.get_extra_info("socket")
            assert line.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
    finally:
        server.should_exit = True
        thread.join(30)
