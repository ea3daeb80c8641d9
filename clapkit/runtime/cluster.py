"""The work of a big job on a Ray cluster: actors hold the model, paths travel to them and vectors back.

A task is a handful of files, and is answered whole or not at all, so nothing comes twice. A task whose actor died is
given to another one; when it dies again, its files are tried one by one, and the one to blame becomes a bad file.

These are plain actors. Ray Data would do, but for one thing: how often it repeats a task that kills its actor can be
limited by arguments that end with Ray 2.64 only, and without them a single file could keep a job busy for ever.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clapkit.errors import ClapkitError, MissingExtraError, ModelError
from clapkit.runtime.job import Embedder, embed_here
from clapkit.runtime.parts import BadFile, FileRows

if TYPE_CHECKING:
    from clapkit.api import Clap

_TASKS_A_WORKER = 8  # so that all of them end at about the same time,
_LEAST, _MOST = 8, 128  # but files enough for the start of a decoder, and not too many for a death to cost
_TRIES = 3  # of a file by itself, before it is called bad
_DEATHS = 8  # so many in a row, and it is not a file that kills


class RayWorkers:
    """An `Embedder` of `clapkit.runtime.job`: actors of a Ray cluster, each with the model loaded once.

    load          makes the model in the worker: a call that can be pickled, of what every node can reach
    pipeline_id   that of the job: a worker whose model is another refuses to work
    address       of the cluster ("auto", "host:6379", "ray://host:10001"); None: RAY_ADDRESS, or one of this machine
    workers       how many; None: as many as the processors (or accelerators) of the cluster allow
    threads       processors that each of them takes
    device        what `load` puts the model on; "auto" and "cuda" take an accelerator each, where there are any
    """

    def __init__(
        self,
        load: Callable[[], Clap],
        *,
        pipeline_id: str,
        address: str | None = None,
        workers: int | None = None,
        threads: int = 1,
        device: str = "auto",
    ) -> None:
        for name, value in (("workers", workers), ("threads", threads)):
            if value is not None and value < 1:
                raise ClapkitError(f"{name} is {value}: expected at least 1")
        try:
            import ray  # noqa: F401
        except ImportError:
            raise MissingExtraError("ray", "ray", "The engine ray") from None
        self._load, self._pipeline_id = load, pipeline_id
        self._address = address or os.environ.get("RAY_ADDRESS")
        self._workers, self._threads, self._device = workers, threads, device

    def __call__(self, paths: Sequence[str], *, windows: bool) -> Iterator[FileRows | BadFile]:
        """One result a path, as they come."""
        with self._cluster():
            count, gpus = self._count()
            size = min(max(_LEAST, len(paths) // (count * _TASKS_A_WORKER)), _MOST, -(-len(paths) // count))
            tasks = deque(_Task(tuple(paths[first : first + size])) for first in range(0, len(paths), size))
            yield from self._work(tasks, min(count, len(tasks)), gpus, windows=windows)

    def _work(self, tasks: deque[_Task], count: int, gpus: int, *, windows: bool) -> Iterator[FileRows | BadFile]:
        """Keep `count` actors busy until there are no tasks; one that fell with its actor comes back at the end."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        actor_class = ray.remote(_Worker).options(num_cpus=self._threads, num_gpus=gpus)
        idle: list[Any] = [actor_class.remote(self._load, self._pipeline_id, windows) for _ in range(count)]
        at_work: dict[Any, tuple[Any, _Task]] = {}
        deaths = 0
        try:
            while tasks or at_work:
                while idle and tasks:
                    actor, task = idle.pop(), tasks.popleft()
                    at_work[actor.embed.remote(task.paths)] = actor, task
                ready = ray.wait(list(at_work), num_returns=1)[0][0]
                actor, task = at_work.pop(ready)
                try:
                    answer = ray.get(ready)
                except RayTaskError as error:
                    raise ClapkitError(f"a worker failed: {error.cause!r}") from error
                except RayError as error:
                    deaths += 1
                    if deaths >= _DEATHS + count:
                        raise ClapkitError(f"the workers die one after the other, the last with: {error}") from error
                    ray.kill(actor)  # it may be out of reach only
                    idle.append(actor_class.remote(self._load, self._pipeline_id, windows))
                    again = task.after_death()
                    tasks.extend(again)
                    if not again:
                        yield BadFile(task.paths[0], f"the worker died with this file each of {_TRIES} times")
                    continue
                deaths = 0
                idle.append(actor)
                if isinstance(answer, ClapkitError):
                    raise answer
                yield from answer
        finally:
            for actor in (*idle, *(actor for actor, _ in at_work.values())):
                ray.kill(actor)

    def _count(self) -> tuple[int, int]:
        """How many workers, and accelerators for each."""
        import ray

        found = ray.cluster_resources()
        gpus = 1 if found.get("GPU", 0) >= 1 and self._device.startswith(("auto", "cuda")) else 0
        fitting = found["GPU"] if gpus else found.get("CPU", 0) // self._threads
        if fitting < (self._workers or 1):
            raise ClapkitError(
                f"the cluster has {found.get('CPU', 0):g} processors and {found.get('GPU', 0):g} accelerators: "
                f"{self._workers or 1} workers with {self._threads} threads do not fit"
            )
        return self._workers or int(fitting), gpus

    @contextmanager
    def _cluster(self) -> Iterator[None]:
        """Connected to the cluster; one that runs in this process already is used and left alone."""
        import ray

        if ray.is_initialized():
            yield
            return
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            if self._address:
                ray.init(address=self._address, **quiet)
            else:
                processors = max(os.cpu_count() or 1, (self._workers or 1) * self._threads)
                ray.init(address="local", num_cpus=processors, include_dashboard=False, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ClapkitError(f"no Ray cluster at {self._address or 'this machine'}: {error}") from error
        try:
            yield
        finally:
            ray.shutdown()


@dataclass(frozen=True)
class _Task:
    """Files for one call of an actor, and how many actors have died with them."""

    paths: tuple[str, ...]
    deaths: int = 0

    def after_death(self) -> list[_Task]:
        """What to try next: the same again, then one file at a time, then nothing."""
        deaths = self.deaths + 1
        if len(self.paths) > 1 and deaths > 1:
            return [_Task((path,)) for path in self.paths]
        return [] if deaths >= _TRIES else [_Task(self.paths, deaths)]


class _Worker:
    """The actor; the model is loaded for its first task, so that what is wrong with it can be answered."""

    def __init__(self, load: Callable[[], Clap], pipeline_id: str, windows: bool) -> None:
        self._load, self._pipeline_id, self._windows = load, pipeline_id, windows
        self._embed: Embedder | None = None

    def embed(self, paths: Sequence[str]) -> list[FileRows | BadFile] | ClapkitError:
        """The results of all paths, or what the caller has to put right."""
        try:
            if self._embed is None:
                clap = self._load()
                if clap.pipeline_id != self._pipeline_id:
                    raise ModelError(
                        f"a worker loaded the pipeline {clap.pipeline_id}, the job is of {self._pipeline_id}: "
                        "every node has to reach the same model and the same clapkit"
                    )
                self._embed = embed_here(clap, workers=1)
            return list(self._embed(paths, windows=self._windows))
        except ClapkitError as error:
            return error
