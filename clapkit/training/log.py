"""What a run writes down: one JSON object a line, and the same records to whatever else shows them.

`log.jsonl` is always there and is the truth. The others are services that people watch: they are imported when they are
asked for, and get numbers only.
"""

from __future__ import annotations

import importlib
import json
import math
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from clapkit.errors import MissingExtraError, SpecError, nearest_name
from clapkit.files import atomic_file


class Log(Protocol):
    """Where records go. `record` has the key "step", and a step comes once."""

    def write(self, record: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


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
        self.close()

    def write(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps({k: _plain(v) for k, v in record.items()}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorBoard:
    """Scalars in `RUN/tensorboard`, which `tensorboard --logdir RUN` shows.

    What an interrupted run wrote at or beyond `first_step` is left out by the readers.
    """

    package = "tensorboard"

    def __init__(self, run: Path, *, first_step: int, about: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=first_step)
        if not first_step:
            self._writer.add_text("recipe", f"<pre>{json.dumps(about, indent=2)}</pre>", 0)

    def write(self, record: Mapping[str, Any]) -> None:
        for name, value in _numbers(record).items():
            self._writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        self._writer.close()


class _Service:
    """A service that keeps what it was sent, for good.

    `RUN/<package>.json` holds the name of the run there and the first step that was not sent yet: a run that goes on
    from an earlier checkpoint comes by the same numbers again, and does not send them again.
    """

    package: str

    def __init__(self, run: Path, *, first_step: int, about: Mapping[str, Any]) -> None:
        self._state_file = run / f"{self.package}.json"
        try:
            state = json.loads(self._state_file.read_bytes())
            self._name, self._next = str(state["name"]), int(state["next"])
        except (OSError, ValueError, KeyError, TypeError):
            self._name, self._next = f"{run.resolve().name}-{uuid.uuid4().hex[:8]}", first_step
        self._module = importlib.import_module(self.package)
        self._begin(run, {"project": "clapkit", "name": self._name, "config": dict(about), "resume": "allow"})

    def _begin(self, run: Path, given: Mapping[str, Any]) -> None:
        self._module.init(**given)

    def write(self, record: Mapping[str, Any]) -> None:
        if record["step"] < self._next:
            return
        self._next = record["step"] + 1
        with atomic_file(self._state_file) as file:  # first: a step that is lost is better than one that is there twice
            file.write(json.dumps({"name": self._name, "next": self._next}).encode())
        self._module.log(_numbers(record), step=record["step"])

    def close(self) -> None:
        self._module.finish()


class Trackio(_Service):
    """A run of the project "clapkit" in trackio."""

    package = "trackio"


class WeightsAndBiases(_Service):
    """A run of the project "clapkit" in Weights & Biases; its own files are in the run folder."""

    package = "wandb"

    def _begin(self, run: Path, given: Mapping[str, Any]) -> None:
        self._module.init(**given, id=self._name, dir=str(run))


SERVICES: dict[str, type[TensorBoard] | type[_Service]] = {
    kind.package: kind for kind in (TensorBoard, Trackio, WeightsAndBiases)
}


class Logs:
    """`log.jsonl` of a run folder and, of `SERVICES`, those that are named, as one log.

    A service that fails while it is written to is left out from then on, with a warning: it must not end the training.
    """

    def __init__(
        self, run: Path, *, first_step: int, services: Sequence[str] = (), about: Mapping[str, Any] | None = None
    ) -> None:
        check_services(services)
        self._lines = JsonLines(run / "log.jsonl", first_step=first_step)
        self._others: dict[str, Log] = {}
        for name in dict.fromkeys(services):
            self._guarded(name, partial(SERVICES[name], run, first_step=first_step, about=about or {}))

    def __enter__(self) -> Logs:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def write(self, record: Mapping[str, Any]) -> None:
        """Write to all; `record` has the key "step"."""
        self._lines.write(record)
        for name, log in list(self._others.items()):
            self._guarded(name, partial(log.write, record))

    def close(self) -> None:
        self._lines.close()
        for name, log in list(self._others.items()):
            self._guarded(name, log.close)

    def _guarded(self, name: str, work: Callable[[], Any]) -> None:
        try:
            made = work()
            if made is not None:
                self._others[name] = made
        except Exception as error:  # whatever a service raises: network, rights, an account
            self._others.pop(name, None)
            warnings.warn(f"--log {name} failed and is left out from here on: {error!r}", stacklevel=2)


def check_services(names: Sequence[str]) -> None:
    """SpecError for a service that is unknown, MissingExtraError for one whose package is not installed."""
    for name in names:
        if name not in SERVICES:
            raise SpecError(f"there is no log '{name}'; {nearest_name(name, list(SERVICES))}")
        try:
            importlib.import_module(SERVICES[name].package)
        except ImportError:
            raise MissingExtraError(SERVICES[name].package, name, f"--log {name}") from None


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a record; its step is told apart."""
    known = {k: v for k, v in record.items() if k != "step" and isinstance(v, (int, float))}
    return {name: float(value) for name, value in known.items() if math.isfinite(value)}


def _plain(value: Any) -> Any:
    """Numbers short enough to read; infinities as text, because JSON has none."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    return value
