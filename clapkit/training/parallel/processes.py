"""The processes of one run: how they meet, wait for each other, agree, and notice that one is gone.

`torchrun` and `accelerate launch` start them and say in the environment how many there are (WORLD_SIZE) and which this
is (RANK; LOCAL_RANK among those of its machine).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from clapkit.errors import ClapkitError, RecipeError
from clapkit.training.parallel.gather import Ranks

T = TypeVar("T")
# The first process may decode for days while the others wait; one that dies is noticed at once all the same.
_PATIENCE = timedelta(days=30)
# In what gloo and NCCL say of another process that does not answer any more.
_GONE = ("closed by peer", "reset by peer", "broken pipe", "gloo", "nccl", "socket")


@dataclass(frozen=True)
class Processes:
    """This process among those of a run. Of one alone, every question has its answer at once.

    local     its number on its machine
    control   the group of all of them for small messages between processors; None for one alone
    """

    rank: int = 0
    count: int = 1
    local: int = 0
    control: Any = None

    @property
    def is_first(self) -> bool:
        """Whether this process writes: the run folder, the log, checkpoints, the model."""
        return self.rank == 0

    @property
    def ranks(self) -> Ranks | None:
        """For `step.How`; None for one alone."""
        return Ranks(self.rank, self.count) if self.count > 1 else None

    def device(self, device: str) -> torch.device:
        """`device`; "auto" is the accelerator that is this process's own, if there is one."""
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        where = torch.device(device)
        if where.type != "cuda" or self.count == 1:
            return where
        if self.local >= torch.cuda.device_count():
            raise RecipeError(
                f"process {self.local} of this machine finds {torch.cuda.device_count()} accelerators: start as many "
                "processes on a machine as it has (--nproc-per-node)"
            )
        where = torch.device("cuda", self.local)
        torch.cuda.set_device(where)
        return where

    def in_turn(self, work: Callable[[], T]) -> T:
        """What `work` returns: the first process does it, then the first of every other machine, then the others.

        For work that fills a cache, which those who come later read. An error in one process ends all of them.
        """
        if self.count == 1:
            return work()
        mine = 0 if self.is_first else 1 if self.local == 0 else 2
        made: list[T] = []
        for turn in range(3):
            error: BaseException | None = None
            if turn == mine:
                try:
                    made.append(work())
                except Exception as found:
                    error = found
            for rank, told in enumerate(self._told(None if error is None else f"{type(error).__name__}: {error}")):
                if error is not None:
                    raise error
                if told is not None:
                    raise ClapkitError(f"process {rank} of this run has stopped, and this one with it: {told}")
        return made[0]

    def check_equal(self, about: Mapping[str, Any]) -> None:
        """ClapkitError where processes differ in anything that has to be the same: recipe, data, step..."""
        for rank, theirs in enumerate(self._told(dict(about))):
            unlike = [name for name, value in about.items() if theirs[name] != value]
            if unlike:
                told = "; ".join(f"{name}: {about[name]!r} and {theirs[name]!r}" for name in unlike)
                raise ClapkitError(
                    f"processes {self.rank} and {rank} of this run do not do the same ({told}): start all of them with "
                    "the same command, data and version, and with a run folder that all of them see"
                )

    def of_first(self, value: T) -> T:
        """What the first process has as `value`."""
        return self._told(value)[0]

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag whether it is set in any process; all of them come to the same answer."""
        if self.count == 1:
            return flags
        found = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(found, op=dist.ReduceOp.MAX, group=self.control)
        return tuple(map(bool, found.tolist()))

    @torch.no_grad()
    def share(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give `tensors` the values that they have in the first process."""
        if self.count > 1:
            for tensor in tensors:
                whole = tensor.contiguous()
                dist.broadcast(whole, 0)
                tensor.copy_(whole)

    def _told(self, value: T) -> list[T]:
        """`value` of every process."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value, group=self.control)
        return values


@contextmanager
def together(device: str) -> Iterator[Processes]:
    """The processes that the environment, or a process group of the caller, says there are.

    A group that is begun here is left at the end. Errors that tell of a process that is gone become ClapkitError.
    """
    began = not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1
    if not began and not (dist.is_initialized() and dist.get_world_size() > 1):
        yield Processes()
        return
    if began:
        on_cards = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
        _meet("nccl" if on_cards else "gloo")
    local = int(os.environ.get("LOCAL_RANK", dist.get_rank()))
    control = dist.new_group(backend="gloo", timeout=_PATIENCE)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), local, control)
    except RuntimeError as error:
        if not is_gone(error):
            raise
        raise ClapkitError(
            f"another process of this run has stopped or cannot be reached: its own message says why; {error}"
        ) from error
    finally:
        if began:
            dist.destroy_process_group()


def _meet(backend: str) -> None:
    """Begin the group of all processes, once all are there: the first may have measured a model for an hour."""
    store, rank, count = next(iter(dist.rendezvous("env://")))
    store.set(f"clapkit/{rank}", "here")
    store.wait([f"clapkit/{other}" for other in range(count)], _PATIENCE)
    dist.init_process_group(backend, store=store, rank=rank, world_size=count)


def is_gone(error: BaseException) -> bool:
    """Whether an error says that another process does not answer any more."""
    told = str(error).lower()
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and any(w in told for w in _GONE))
