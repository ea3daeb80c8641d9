"""A `clapkit serve` of its own, in another process, for benchmarks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def serving(library: Path, *options: str) -> Iterator[tuple[int, str]]:
    """The number of the process and the address of a server of `library`, while the block lasts.

    options   further words of the command. RuntimeError if it ends before it says where it listens.
    """
    words = [sys.executable, "-m", "clapkit", "serve", str(library), "--port", "0", *options]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=os.environ)
    try:
        yield process.pid, _address(process)
    finally:
        process.terminate()
        process.wait(30)


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if found := re.search(r"http://[\d.]+:\d+", line):
            threading.Thread(target=process.stderr.read, daemon=True).start()  # a full pipe would hold it up
            return found[0]
    raise RuntimeError("the server did not start: " + "".join(said[-5:]))
