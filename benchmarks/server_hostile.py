"""Ten thousand requests that mean harm, sent to a running `clapkit serve`.

Run:   python benchmarks/server_hostile.py --model RUN [--requests 10000] [--lines 16] [--slow 48]
           [--json benchmarks/results/server_hostile.json]

A library of 40 tones is indexed in a temporary folder, beside a file that nobody may read and a link to it in place of
an indexed sound. The requests are those of `hostile_requests.py`, and a share of them cases that schemathesis makes of
the description of the server. Counted are statuses, the slowest answer, and the memory of the server: after some
requests of all kinds ("before"), at most, and ten seconds after the last one.

Exit status 1 if an answer is 5xx, if one takes more than 10 s (of a client that says nothing: more than
25 s), if the file that nobody may read is read, if the server does not answer at the end, or if its memory stays more
than 15 % above what it was.
"""

from __future__ import annotations

import argparse
import itertools
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
import psutil
import soundfile
from hostile_requests import FAST, SECRET, Attack, attacks
from machine import described
from served import serving

_HANG_S, _SLOW_S = 10.0, 25.0
_MEMORY_SHARE = 1.15
_WARM = 1500
_MOST_BYTES = 64 << 20  # of an endless body: the server has to have had enough before


@dataclass
class Outcome:
    """What came of the requests: statuses by kind, the slowest, and those that went wrong."""

    statuses: dict[str, Counter[str]] = field(default_factory=dict)
    slowest_s: float = 0.0
    slowest_kind: str = ""
    wrong: list[str] = field(default_factory=list)

    def add(self, attack: Attack, answer: bytes, took_s: float) -> None:
        status = answer.split(b" ", 2)[1].decode("latin-1") if answer.startswith(b"HTTP/") else "closed"
        self.statuses.setdefault(attack.kind, Counter())[status] += 1
        if attack.how != "slow" and took_s > self.slowest_s:
            self.slowest_s, self.slowest_kind = took_s, attack.kind
        if status[0] == "5":
            self.wrong.append(f"{status} for {attack.kind}: {attack.data[:200]!r}: {answer[-300:]!r}")
        if took_s > (_SLOW_S if attack.how == "slow" else _HANG_S):
            self.wrong.append(f"{took_s:.1f} s for {attack.kind}: {attack.data[:200]!r}")
        if SECRET in answer or b"root:x:" in answer:
            self.wrong.append(f"read what nobody may: {attack.data[:200]!r}")


def send(url: str, attack: Attack, *, patience_s: float = _SLOW_S + 5) -> bytes:
    """What comes back, to the end of the line; nothing where the line is closed."""
    parts = urlsplit(url)
    answer = b""
    with suppress(OSError), socket.create_connection((parts.hostname, parts.port), timeout=patience_s) as line:
        with suppress(OSError):  # it may have answered, and closed, before the end
            line.sendall(attack.data)
            if attack.how == "half":
                line.shutdown(socket.SHUT_WR)
            elif attack.how == "abort":
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                return b""
            elif attack.how == "endless":
                _go_on(line, attack.data[attack.data.index(b"\r\n\r\n") + 4 :])
        while len(answer) < 1 << 20 and (piece := line.recv(65536)):
            answer += piece
    return answer


def _go_on(line: socket.socket, piece: bytes) -> None:
    line.settimeout(0.5)
    for _ in range(_MOST_BYTES // len(piece)):
        line.sendall(piece)
    line.settimeout(_HANG_S)


def assail(url: str, requests: Iterator[Attack], *, lines: int) -> Outcome:
    """Send requests over so many lines at once."""
    outcome, lock = Outcome(), threading.Lock()

    def worker() -> None:
        while True:
            with lock:
                attack = next(requests, None)
            if attack is None:
                return
            began = time.perf_counter()
            answer = send(url, attack)
            took_s = time.perf_counter() - began
            with lock:
                outcome.add(attack, answer, took_s)

    with ThreadPoolExecutor(lines) as threads:
        for done in [threads.submit(worker) for _ in range(lines)]:
            done.result()
    return outcome


def described_cases(url: str, count: int) -> list[str]:
    """Cases of schemathesis, half of which fit the description; what went wrong with them. Nothing without it."""
    import schemathesis
    from hypothesis import HealthCheck, given, settings
    from hypothesis.errors import Unsatisfiable

    wrong: list[str] = []
    operations = [found.ok() for found in schemathesis.openapi.from_url(url + "/openapi.json").get_all_operations()]
    each = max(1, count // (2 * len(operations)))
    for operation, mode in itertools.product(operations, schemathesis.GenerationMode):

        @settings(max_examples=each, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            began = time.perf_counter()
            status = case.call().status_code
            if status >= 500 or time.perf_counter() - began > _HANG_S:
                wrong.append(f"{status} after {time.perf_counter() - began:.1f} s for {case}")

        with suppress(Unsatisfiable):
            ask()
    return wrong


def library_of_tones(folder: Path, model: str) -> Path:
    """A library of 40 tones; one of them is a link to a secret by now."""
    sounds = folder / "sounds"
    sounds.mkdir()
    for n in range(40):
        soundfile.write(sounds / f"tone {n}.wav", 0.3 * np.sin(np.arange(16000) * (0.02 + 0.01 * n)), 16000)
    (folder / "secret.txt").write_bytes(SECRET)
    words = [sys.executable, "-m", "clapkit", "index", str(sounds), "--model", model, "--out", str(folder / "library")]
    subprocess.run(words, check=True, capture_output=True)
    (sounds / "tone 0.wav").unlink()
    (sounds / "tone 0.wav").symlink_to(folder / "secret.txt")
    return folder / "library"


class Memory:
    """The resident memory of a process in MiB, watched from now on."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.peak = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def now(self) -> float:
        return self._process.memory_info().rss / 2**20

    def _watch(self) -> None:
        with suppress(psutil.Error):
            while True:
                self.peak = max(self.peak, self.now())
                time.sleep(0.1)


def rows_of(url: str) -> list[str]:
    """Ids of rows."""
    with urlopen(url + "/search?text=rain&k=100", timeout=60) as answer:
        return [hit["id"] for hit in json.load(answer)["results"]]


def told_of(url: str, memory: Memory, options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """The figures, and what went wrong."""
    ids = rows_of(url)
    assail(url, itertools.islice(attacks(1, ids, kinds=FAST), _WARM), lines=options.lines)
    time.sleep(5)
    before, began = memory.now(), time.perf_counter()
    described_count = options.requests // 5
    own = options.requests - described_count - options.slow
    outcome = assail(url, itertools.islice(attacks(2, ids, kinds=FAST), own), lines=options.lines)
    held = itertools.islice(attacks(3, ids, kinds=("slow", "endless")), options.slow)
    slow = assail(url, held, lines=options.slow)
    wrong = outcome.wrong + slow.wrong + described_cases(url, described_count)
    took_s = time.perf_counter() - began
    time.sleep(10)
    after = memory.now()
    if not rows_of(url) or after > _MEMORY_SHARE * before:
        wrong.append(f"{before:.0f} MiB before and {after:.0f} MiB after, or no answer at the end")
    kinds: dict[str, Counter[str]] = {**outcome.statuses, **slow.statuses}
    told = {
        "requests": options.requests,
        "seconds": round(took_s, 1),
        "statuses": dict(sum(kinds.values(), Counter()).most_common()),
        "by_kind": {kind: dict(found.most_common()) for kind, found in kinds.items()},
        "described_cases": described_count,
        "slowest": {"seconds": round(outcome.slowest_s, 2), "kind": outcome.slowest_kind},
        "memory_mib": {"before": round(before), "peak": round(memory.peak), "after": round(after)},
        "wrong": wrong,
        "machine": described("fastapi", "uvicorn", "schemathesis"),
    }
    return told, wrong


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--lines", type=int, default=16)
    parser.add_argument("--slow", type=int, default=48)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(words)
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(library_of_tones(Path(folder), options.model)) as (pid, url),
    ):
        told, wrong = told_of(url, Memory(pid), options)
    print(json.dumps(told, indent=2))
    if options.json:
        options.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
