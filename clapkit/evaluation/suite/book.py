"""`suite.json` on disk: what is done, what is left out, and whether what is there belongs to the run at hand."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clapkit.errors import DataError
from clapkit.evaluation.report import FEW_RECORDINGS
from clapkit.files import atomic_file

FORMAT_VERSION = 1
FILE = "suite.json"


class Book:
    """The object of `suite.json` while it grows."""

    def __init__(self, out: Path, *, model: Mapping[str, Any], protocol: Mapping[str, Any]) -> None:
        self.out = out
        self._head = {"format_version": FORMAT_VERSION, "protocol": dict(protocol), "model": dict(model)}
        self._tasks: dict[str, Any] = {}
        self._unopened: dict[str, str] = {}
        self._fingerprints: dict[str, str] = {}
        self._run: dict[str, Any] = {}

    @classmethod
    def open(cls, out: Path, *, model: Mapping[str, Any], protocol: Mapping[str, Any]) -> Book:
        """The book in `out`, with what earlier runs of this model by this protocol left there.

        DataError where the folder holds the suite of another model. Another protocol begins a new book.
        """
        book = cls(out, model=model, protocol=protocol)
        if not (out / FILE).is_file():
            return book
        old = read_suite(out / FILE)
        if old["model"].get("pipeline_id") != model["pipeline_id"]:
            raise DataError(
                f"{out / FILE} holds the scores of {old['model'].get('name')} ({old['model'].get('pipeline_id')}), not "
                f"of {model['name']} ({model['pipeline_id']}): give each model a folder of its own with --out"
            )
        if old["protocol"] == book._head["protocol"]:
            book._tasks = dict(old["tasks"])
            book._fingerprints = dict(old.get("run", {}).get("fingerprints", {}))
        return book

    @property
    def whole(self) -> dict[str, Any]:
        """The object of the file."""
        tasks = {name: self._tasks[name] for name in sorted(self._tasks)}
        return {**self._head, "tasks": tasks, "unopened": dict(sorted(self._unopened.items())), "run": self._run}

    def done(self, name: str, fingerprint: str) -> Mapping[str, Any] | None:
        """The entry of a task that was scored before on the very same data, if what lies beside it is whole."""
        entry = self._tasks.get(name)
        if entry is None or self._fingerprints.get(name) != fingerprint:
            return None
        whole = sha256_of(self.out / entry["outcomes"]["file"]) == entry["outcomes"]["sha256"]
        return entry if whole and (self.out / "arrays" / f"{name}.npz").is_file() else None

    def add(self, name: str, entry: Mapping[str, Any], fingerprint: str | None) -> None:
        """A task with its scores. Without a fingerprint they are shown, but the next run makes them anew."""
        self._tasks[name] = dict(entry)
        self._fingerprints.pop(name, None)
        if fingerprint is not None:
            self._fingerprints[name] = fingerprint

    def leave(self, name: str, why: str) -> None:
        """A task without scores: what an earlier run wrote of it no longer holds."""
        self._tasks.pop(name, None)
        self._fingerprints.pop(name, None)
        self._unopened[name] = why

    def write(self, run: Mapping[str, Any]) -> None:
        """The file as it stands, in one step."""
        self._run = {**run, "fingerprints": dict(sorted(self._fingerprints.items()))}
        text = json.dumps(self.whole, indent=1, ensure_ascii=False, allow_nan=False)
        with atomic_file(self.out / FILE) as file:
            file.write((text + "\n").encode())


def read_suite(path: Path) -> dict[str, Any]:
    """The object of a `suite.json`, or of the folder that holds one. DataError for other formats."""
    path = path / FILE if path.is_dir() else path
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as the JSON of an evaluation suite: {error}") from error
    version = found.get("format_version") if isinstance(found, dict) else None
    if version != FORMAT_VERSION or not all(isinstance(found.get(key), dict) for key in ("model", "protocol", "tasks")):
        raise DataError(
            f"{path} is no result of 'clapkit eval suite' that can be read here: found format {version!r}, "
            f"expected {FORMAT_VERSION}"
        )
    return found


def headline_of(entry: Mapping[str, Any]) -> tuple[str, str, Mapping[str, Any]]:
    """(result, metric, score) that stands for a task: its headline, else the first score there is."""
    scores = [(r, m, score) for r, told in entry["results"].items() for m, score in told["metrics"].items()]
    return next((found for found in scores if found[1] == entry["headline"]), scores[0])


def few_recordings(entry: Mapping[str, Any]) -> str | None:
    """What has to be said of intervals that rest on a handful of recordings; None where there are enough."""
    count = entry.get("recordings")
    if not isinstance(count, int) or count >= FEW_RECORDINGS:
        return None
    return f"intervals and p values rest on {count} recordings or speakers alone, and are too sure of themselves"


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> str:
    """Write an .npz in one step, the same bytes for the same arrays; returns its SHA-256."""
    held = io.BytesIO()
    np.savez_compressed(held, allow_pickle=False, **{name: arrays[name] for name in sorted(arrays)})
    with atomic_file(path) as file:
        file.write(held.getbuffer())
    return hashlib.sha256(held.getbuffer()).hexdigest()


def sha256_of(path: Path) -> str | None:
    """The digest of a file; None where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
