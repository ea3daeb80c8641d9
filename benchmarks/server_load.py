"""Text queries to a running `clapkit serve`: how long they take at a steady rate, and how many it takes at most.

Run:   python benchmarks/server_load.py --model RUN [--rows 100000] [--clients 20] [--seconds 300] [--threads 2]
           [--json benchmarks/results/server_load.json]

A store of random unit vectors in the space of the model is written to a temporary folder and served by a process of its
own, on the loopback. Then, with texts that are all different:

open loop     every client asks once a second, whether its last answer has come or not; a time counts from the moment at
              which the question was due, so that a server that falls behind cannot hide it
closed loop   1, 4, 16 and 64 clients ask again as soon as they have their answer; the highest rate is the saturation

The clients run in this process, on the same processors as the server: the figures are those of both together. They
speak HTTP/1.1 over kept connections in the fewest words, so that most of the processors is left to the server.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import re
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, urlsplit

import numpy as np
import psutil
from machine import described
from served import serving

import clapkit
from clapkit.search.rows import Row
from clapkit.search.store import Store

WINDOWS = 4  # of a file
THINGS = ["dog", "train", "violin", "door", "rain", "engine", "crowd", "bell", "river", "hammer", "bird", "glass"]
DOES = ["barking", "passing", "playing", "slamming", "falling", "idling", "cheering", "ringing", "flowing", "breaking"]
PLACES = ["in a hall", "far away", "in the street", "at night", "close by", "in a forest", "under water", "in a cellar"]


def texts() -> Iterator[str]:
    """Descriptions of 6 to 12 words that never come again."""
    for number in itertools.count():
        rng = random.Random(number)
        yield f"a {rng.choice(THINGS)} {rng.choice(DOES)} {rng.choice(PLACES)} and {rng.choice(THINGS)} number {number}"


def write_store(folder: Path, model: str, rows: int) -> None:
    """`rows` random unit vectors in the space of the model, as windows of files that are not there."""
    clap = clapkit.load(model)
    rng = np.random.default_rng(0)
    about = {"space_id": clap.space_id, "pipeline_id": clap.pipeline_id, "dimension": clap.dimension}
    with Store.create(folder, **about, model=clap.folder) as store:
        writer = store.writer()
        for first in range(0, rows, 20_000):
            numbers = range(first, min(rows, first + 20_000))
            written = [
                Row(
                    f"/sounds/part {n // 4000}/sound {n // WINDOWS}.wav", n % WINDOWS, 2.0 * (n % WINDOWS), 4.0,
                    f"{n // WINDOWS:032x}", clap.pipeline_id, tags=(str(rng.choice(THINGS)),), metadata={"number": n},
                )
                for n in numbers
            ]  # fmt: skip
            writer.add(written, rng.standard_normal((len(written), clap.dimension)).astype(np.float32))
        writer.settle()


class Client:
    """One connection to the server, opened again where it was closed."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname, parts.port
        self._line: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, text: str) -> str | None:
        """What went wrong with one query, or None. A line that the server has closed meanwhile is opened once more."""
        kept = self._line is not None
        problem = await self._asked(text)
        return await self._asked(text) if kept and problem == "IncompleteReadError" else problem

    async def _asked(self, text: str) -> str | None:
        try:
            reader, writer = self._line or await asyncio.open_connection(self._host, self._port)
            self._line = None
            writer.write(f"GET /search?text={quote_plus(text)}&k=10 HTTP/1.1\r\nHost: {self._host}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            found = re.search(rb"content-length: (\d+)", head)
            assert found, "answers of this route have a length"
            body = await reader.readexactly(int(found[1]))
            self._line = reader, writer
        except (OSError, EOFError, asyncio.IncompleteReadError) as error:
            return type(error).__name__
        fits = head.startswith(b"HTTP/1.1 200 ") and body.count(b'"score":') == 10
        return None if fits else head.split(b" ", 2)[1].decode()

    def close(self) -> None:
        if self._line is not None:
            self._line[1].close()


async def open_loop(url: str, *, clients: int, seconds: float, words: Iterator[str]) -> dict[str, Any]:
    """Each client once a second, the clients spread over it; who has no free connection opens another one."""
    took_s: list[float] = []
    errors: list[str] = []
    free: deque[Client] = deque()
    begin = time.perf_counter() + 0.5

    async def one(due: float) -> None:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        client = free.popleft() if free else Client(url)
        problem = await client.ask(next(words))
        took_s.append(time.perf_counter() - due)
        free.append(client)
        if problem:
            errors.append(problem)

    due = [begin + second + number / clients for second in range(int(seconds)) for number in range(clients)]
    await asyncio.gather(*(one(moment) for moment in due))
    for client in free:
        client.close()
    return {"clients": clients, "seconds": int(seconds), **figures(took_s, errors)}


async def closed_loop(url: str, *, clients: int, seconds: float, words: Iterator[str]) -> dict[str, Any]:
    """Each client again as soon as it has its answer."""
    took_s: list[float] = []
    errors: list[str] = []
    end = time.perf_counter() + seconds

    async def one() -> None:
        client = Client(url)
        while (began := time.perf_counter()) < end:
            problem = await client.ask(next(words))
            took_s.append(time.perf_counter() - began)
            if problem:
                errors.append(problem)
        client.close()

    await asyncio.gather(*(one() for _ in range(clients)))
    return {"clients": clients, "a_second": round(len(took_s) / seconds, 1), **figures(took_s, errors)}


def figures(took_s: list[float], errors: list[str]) -> dict[str, Any]:
    """Percentiles in milliseconds, and what went wrong."""
    p50, p99 = np.percentile(np.array(took_s) * 1000, [50, 99]).round(1).tolist()
    return {
        "queries": len(took_s),
        "p50_ms": p50,
        "p99_ms": p99,
        "max_ms": round(1000 * max(took_s), 1),
        "errors": dict(Counter(errors)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--closed-seconds", type=float, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    words = texts()
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "library"
        write_store(library, options.model, options.rows)
        served_as = ["--model", options.model, "--threads", str(options.threads), "--max-per-client", "256"]
        with serving(library, *served_as) as (pid, url):
            asyncio.run(closed_loop(url, clients=4, seconds=2, words=words))  # what comes first is slower
            told = {
                "rows": options.rows,
                "open_loop": asyncio.run(open_loop(url, clients=options.clients, seconds=options.seconds, words=words)),
                "closed_loop": [
                    asyncio.run(closed_loop(url, clients=count, seconds=options.closed_seconds, words=words))
                    for count in (1, 4, 16, 64)
                ],
                "server_memory_mib": round(psutil.Process(pid).memory_info().rss / 2**20),
                "machine": described("torch", "fastapi", "uvicorn"),
            }
    print(json.dumps(told, indent=2))
    if options.json:
        options.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
