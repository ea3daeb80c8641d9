"""State of a run on disk: what the next step needs, written whole or not at all.

A checkpoint is a folder `step_00000500/` with `state.safetensors` (weights that learn, running statistics, what stands
beside the model, optimizer) and `progress.json`. Frozen weights are not in it: they are where they came from, and their
digest is checked.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor

from clapkit.errors import ClapkitError, DataError, ModelError
from clapkit.model import DualEncoder
from clapkit.native import tensors_digest
from clapkit.training.parallel.processes import Processes, is_gone
from clapkit.training.parallel.sharding import cut, fill, whole

FORMAT_VERSION = 1
# Settings that change what is written down, and no weight: a run may go on with others.
# With another blend or another choice of the result, the end of the run is made anew from the same trained weights.
# Compiled towers round otherwise, as another machine does.
_WITHOUT_EFFECT = (
    *("train.checkpoint_s ", "train.keep ", "train.log_every ", "scales"),
    *("tune.blend ", "train.ema_result ", "train.parallel ", "train.compile ", "evaluate"),
)


@dataclass(frozen=True)
class Progress:
    """Where a run stands: steps done, the recipe and the data it belongs to, and the frozen weights under it.

    `start` is the identity of the model that the run was given (`training.beginning`), None if it built its own.
    """

    step: int
    recipe: Mapping[str, Any]
    data_digest: str
    frozen_digest: str
    start: str | None = None


def learnt_state(model: DualEncoder) -> dict[str, torch.Tensor]:
    """Everything that training changes: parameters with gradient, and buffers outside a frozen text tower."""
    names = {name for name, _ in model.learnt()}
    names |= {n for n, _ in model.named_buffers() if not (model.frozen_text and n.startswith("text."))}
    return {name: tensor for name, tensor in model.state_dict().items() if name in names}


def frozen_digest(model: DualEncoder) -> str:
    """Digest of what training does not change."""
    learnt = learnt_state(model)
    return tensors_digest({name: tensor for name, tensor in model.state_dict().items() if name not in learnt})


def held(model: DualEncoder, beside: Mapping[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """The live tensors of a checkpoint by name: `learnt_state`, and those that stand `beside` the model.

    Asked for once, before a run begins: what a stage freezes for a while belongs to it all the same.
    """
    return {**{f"model.{name}": tensor for name, tensor in learnt_state(model).items()}, **(beside or {})}


def is_finite(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether everything in it is a number: a checkpoint of anything else could not be used. Of shares, one's own."""
    own = (t.to_local() if isinstance(t, DTensor) else t for t in tensors.values() if t.is_floating_point())
    return all(bool(torch.isfinite(t).all()) for t in own)


class Keeper:
    """Writes the checkpoints of a run. `step` is the number of steps that are in the weights.

    Entered around the steps: where another process is gone, the first one writes what it has, if it has everything, and
    ClapkitError says how to go on.
    """

    def __init__(
        self,
        folder: Path,
        live: Mapping[str, torch.Tensor],
        optimizer: torch.optim.Optimizer,
        here: Progress,
        *,
        keep: int,
        processes: Processes,
    ) -> None:
        self.step = here.step
        self._folder, self._live, self._optimizer, self._here = folder, live, optimizer, here
        self._keep, self._processes = keep, processes

    def write(self) -> None:
        """A checkpoint of what is there; all processes at the same time."""
        if self._processes.is_first:
            write(self._folder, self._live, self._optimizer, replace(self._here, step=self.step), keep=self._keep)
        else:
            gathered(self._live, self._optimizer)

    def write_if_finite(self) -> None:
        """The same, unless some process has what is no number."""
        if not self._processes.any(not is_finite(self._live))[0]:
            self.write()

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or self._processes.count == 1 or not is_gone(error):
            return
        if self._processes.is_first and not any(isinstance(t, DTensor) for t in self._live.values()):
            self.write()
        raise ClapkitError(
            f"another process of this run has stopped or cannot be reached, after {self.step} steps: its own message "
            f"says why. Go on from the newest checkpoint in '{self._folder}' (resume=True, --resume); {error}"
        ) from error


def gathered(live: Mapping[str, torch.Tensor], optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint: those that `held` gave, and the optimizer's; put together where they are shared out,
    for which all processes have to call at the same time."""
    tensors = {name: whole(tensor).contiguous() for name, tensor in live.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors.update({f"optimizer.{index}.{k}": whole(v).contiguous() for k, v in state.items()})
    return tensors


def write(
    folder: Path,
    live: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    *,
    keep: int,
) -> Path:
    """Write the checkpoint of `progress.step` with the tensors that `held` gave; only the newest `keep` stay."""
    tensors = gathered(live, optimizer)
    final = folder / f"step_{progress.step:08d}"
    partial = folder / f".step_{progress.step:08d}.{os.getpid()}.partial"
    for left_over in folder.glob(".step_*.partial"):  # of a process that was killed while it wrote
        shutil.rmtree(left_over, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        save_file(tensors, partial / "state.safetensors")
        (partial / "progress.json").write_text(
            json.dumps({"format_version": FORMAT_VERSION, **progress.__dict__}, indent=2), encoding="utf-8"
        )
        _flush(partial)
        shutil.rmtree(final, ignore_errors=True)
        partial.replace(final)
    except (OSError, SafetensorError) as error:
        raise ModelError(_not_written(final, tensors, error)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for old in list_steps(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def _not_written(final: Path, tensors: Mapping[str, torch.Tensor], error: Exception) -> str:
    needed = sum(t.numel() * t.element_size() for t in tensors.values()) / 2**20
    kept = list_steps(final.parent)
    left = f"'{kept[-1].name}' is whole: make room and go on from it (resume=True, --resume)" if kept else "none exists"
    return f"the checkpoint {final} of {needed:.0f} MiB could not be written: {error}. Of earlier ones, {left}"


def _flush(folder: Path) -> None:
    """Have the files on disk before the folder gets its final name, so that a power cut cannot leave an empty one."""
    for path in folder.iterdir():
        with open(path, "rb+") as file:
            os.fsync(file.fileno())


def list_steps(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    return sorted(p for p in folder.glob("step_*") if (p / "progress.json").is_file())


def read_progress(checkpoint: Path) -> Progress:
    """The progress that `write` wrote; ModelError if it cannot be read."""
    try:
        data = json.loads((checkpoint / "progress.json").read_text(encoding="utf-8"))
        version = data.pop("format_version")
        if version != FORMAT_VERSION:
            raise ModelError(f"{checkpoint} has format_version {version}, this clapkit reads {FORMAT_VERSION}")
        return Progress(**data)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ModelError(f"{checkpoint} cannot be read: {error!r}") from error


def check_fits(found: Progress, wanted: Progress, checkpoint: Path) -> None:
    """Refuse to go on with another recipe, other data or other frozen weights: the result would be neither run's."""
    differing = [d for d in _differences(found.recipe, wanted.recipe) if not d.startswith(_WITHOUT_EFFECT)]
    if differing:
        raise ModelError(f"{checkpoint} belongs to another recipe; it differs in {', '.join(differing[:8])}")
    if found.data_digest != wanted.data_digest:
        raise DataError(
            f"{checkpoint} was trained on other data: the manifest, a split or the length of a sound has changed since"
        )
    if found.start != wanted.start:
        raise ModelError(f"{checkpoint} began with the model {found.start}, and this run with {wanted.start}")
    if found.frozen_digest != wanted.frozen_digest:
        raise ModelError(f"{checkpoint} was trained over another text tower")


def _differences(a: Any, b: Any, path: str = "") -> list[str]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return [d for k in sorted({*a, *b}) for d in _differences(a.get(k), b.get(k), f"{path}.{k}".strip("."))]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in _differences(x, y, f"{path}.{i}")]
    return [] if a == b else [f"{path} ({a!r} there, {b!r} here)"]


def resume(
    checkpoint: Path, wanted: Progress, live: Mapping[str, torch.Tensor], optimizer: torch.optim.Optimizer
) -> int:
    """Go on from `checkpoint` with a run that is as `wanted` says; the number of steps that are done."""
    found = read_progress(checkpoint)
    check_fits(found, wanted, checkpoint)
    restore(checkpoint, live, optimizer)
    return found.step


def restore(checkpoint: Path, live: Mapping[str, torch.Tensor], optimizer: torch.optim.Optimizer) -> None:
    """Put the tensors that `held` gave and the optimizer's state back as they were when `checkpoint` was written."""
    try:
        tensors = load_file(checkpoint / "state.safetensors")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{checkpoint} cannot be read: {error}; delete it to go on from the one before") from error
    stored = {name: tensor for name, tensor in tensors.items() if not name.startswith("optimizer.")}
    if stored.keys() != live.keys():
        raise ModelError(f"{checkpoint} does not fit the model: {sorted(stored.keys() ^ live.keys())[:5]}")
    with torch.no_grad():
        for name, tensor in stored.items():
            fill(live[name], tensor)
    learnt = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = cut(learnt[int(index)], tensor)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
