"""What a run writes down: one JSON object a line."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clapkit.files import atomic_file


class JsonLines:
    """Appends to `log.jsonl`. Opened at step n, it first drops what an interrupted run wrote at or beyond step n."""

    def __init__(self, path: Path, *, first_step: int) -> None:
        kept = []
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    if json.loads(line).get("step", -1) < first_step:
                        kept.append(line)
                except ValueError:
                    continue  # the line that a kill cut in half
        with atomic_file(path) as file:
            file.write("".join(f"{line}\n" for line in kept).encode())
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def write(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps({k: _plain(v) for k, v in record.items()}) + "\n")
        self._file.flush()


def _plain(value: Any) -> Any:
    """Numbers short enough to read; infinities as text, because JSON has none."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    return value
