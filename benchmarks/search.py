"""Search at size: time to build, time to answer, what is found, memory and disk of a store, beside other libraries.

    python benchmarks/search.py --folder SCRATCH --json benchmarks/results/search.json --rows 1000000
    python benchmarks/search.py --folder SCRATCH --json benchmarks/results/search.json --rows 1000000 --step ask

The library is made up (`search_world.py`): float16 vectors of 512 dimensions in 2,000 clusters, with planted neighbours
of known queries. Each step is a process of its own, of --threads threads, and its figures go into the result file as
soon as it ends, under the number of rows; a step that is run again replaces its own figures.

truth   the ten nearest of each query, by comparing with every row in numpy: what the others are measured by
write   the store is written through its API, 20,000 rows a call
tune    its indexes are built, and tuned for a recall of 0.95 on 100 of the queries
ask     the other queries, one after the other: ids and cosines (`search`), whole rows (`find`), with a filter on tags
        that is asked with for the first time (`filtered_anew`: every third query) or was before (`filtered`), and
        compared with every row (every 17th); the memory of this process. Up to 200,000 rows a store compares with
        every row by itself
faiss, lancedb, numpy
        the same queries, one by one, by others: IVF-PQ with a second scoring in float16 (and, up to 200,000 rows, a
        flat index), all in memory; a plain table and its IVF_PQ index; a product with all rows (up to 200,000 rows).
        Where there is something to set, the cheapest of the steps of our own tuning that reaches 0.95 counts

Times are wall clock, in milliseconds, each query once after 50 others (10 where every row is compared). Memory is
resident memory in MB, and counts pages of mapped files. Ends with status 1 where a figure of 1,000,000 rows
misses what it must be.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import search_peers
from machine import described
from search_world import TAGS, World

STEPS = ("truth", "write", "tune", "ask", *search_peers.STEPS)
K = 10
TUNED_WITH = 100  # the first of the planted queries
WARM = 50
MUST = {"p50_ms": 10, "p99_ms": 40, "recall": 0.95, "filtered_p50_ms": 25, "build_s": 600, "peak_mb": 1500}
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")


def truth(world: World, folder: Path) -> dict[str, Any]:
    """The best rows of each query, of all rows and of those with each tag; kept in truth.npz."""
    started = time.perf_counter()
    queries_QD = world.queries
    best = {
        name: (np.full((len(queries_QD), K), -9.0, np.float32), np.zeros((len(queries_QD), K), np.int64))
        for name in ("all", *TAGS)
    }
    for first, vectors_RD in world.pieces():
        scores_QR = queries_QD @ vectors_RD.T
        row_R = np.arange(first, first + len(vectors_RD))
        for name, (scores_QK, row_QK) in best.items():
            mine_M = row_R if name == "all" else row_R[world.has(name, row_R)]
            joined_QM = np.concatenate([scores_QK, scores_QR[:, mine_M - first]], axis=1)
            place_QK = np.argpartition(-joined_QM, K - 1, axis=1)[:, :K]
            rows_QM = np.concatenate([row_QK, np.broadcast_to(mine_M, (len(queries_QD), len(mine_M)))], axis=1)
            best[name] = np.take_along_axis(joined_QM, place_QK, 1), np.take_along_axis(rows_QM, place_QK, 1)
    kept: dict[str, Any] = {name: row_QK for name, (_, row_QK) in best.items()}
    np.savez(folder / "truth.npz", **kept)
    scores_QK, row_QK = best["all"]
    tenth_Q = scores_QK.min(axis=1)
    return {
        "seconds": time.perf_counter() - started,
        "planted_among_the_ten": share(row_QK[: world.planted], world.neighbours),
        "cosine_of_the_tenth": {
            "planted": float(np.median(tenth_Q[: world.planted])),
            "bare": float(np.median(tenth_Q[world.planted :])),
        },
    }


def write(world: World, folder: Path) -> dict[str, Any]:
    """Write the store, 20,000 rows a call. The making of the vectors is not counted, that of the rows is."""
    from clapkit.search.rows import Row
    from clapkit.search.store import Store

    shutil.rmtree(folder / "store", ignore_errors=True)
    about = {"space_id": "made up", "pipeline_id": "made up", "dimension": world.dimension}
    calls_s = []
    with Store.create(folder / "store", **about) as store:
        writer = store.writer()
        for first, vectors_RD in world.pieces():
            started = time.perf_counter()
            writer.add([Row(**about) for about in world.about(first, len(vectors_RD))], vectors_RD)
            calls_s.append(time.perf_counter() - started)
    calls = {"first_call_s": calls_s[0], "last_call_s": calls_s[-1]}
    return {"seconds": sum(calls_s), **calls, "peak_mb": peak_mb(), "disk_mb": disk_mb(folder / "store")}


def tune(world: World, folder: Path) -> dict[str, Any]:
    """Build the indexes of the store, and find how to ask them."""
    from clapkit.search import tuning
    from clapkit.search.store import Store

    laps: list[tuple[str, float]] = []
    peaks_mb: list[float] = []  # the most memory up to each lap, since the one before

    def lap(step: str) -> None:
        laps.append((step, time.perf_counter()))
        peaks_mb.append(peak_mb())
        forget_peak()

    with Store.open(folder / "store") as store:
        found = tuning.tune(store, queries_QD=world.queries[:TUNED_WITH], on_step=lap)
        lap("end")
    seconds = {step: end_s - start_s for (step, start_s), (_, end_s) in itertools.pairwise(laps)}
    steps_mb = {step: most_mb for (step, _), most_mb in zip(laps, peaks_mb[1:], strict=False)}
    setting = {"parts": found.parts, "refine": found.refine, "bits": found.bits, "recall": found.recall}
    return {"seconds": sum(seconds.values()), "steps_s": seconds, "setting": setting, "peak_mb": max(peaks_mb),
            "steps_peak_mb": steps_mb, "disk_mb": disk_by_part(folder / "store")}  # fmt: skip


def ask(world: World, folder: Path) -> dict[str, Any]:
    """Ask the store, as a process that has just begun."""
    from clapkit.search.query import Query, find
    from clapkit.search.rows import Row
    from clapkit.search.store import Store
    from clapkit.search.where import Filter

    memory = {"begun": rss_mb()}
    started = time.perf_counter()
    view = Store.open(folder / "store").view
    opened_s = time.perf_counter() - started
    held = np.load(folder / "truth.npz")

    def named(kind: str) -> list[set[str]]:
        return [{Row(**world.about(row, 1)[0]).id for row in rows.tolist()} for rows in held[kind]]

    def measured(
        kind: str, call: Callable[[np.ndarray], Sequence[str]], queries: range, warm: int = WARM
    ) -> dict[str, Any]:
        times_ms, found = timed(call, world.queries, queries, warm)
        right = named(kind)
        recalls = {n: len(right[n] & set(names)) / K for n, names in found.items()}
        return {**spread(times_ms), **recalled(world, recalls)}

    def within(tag: str) -> Callable[[np.ndarray], Sequence[str]]:
        return lambda query_D: view.search(query_D[None], K, where=Filter("tags", "=", tag))[0][0]

    def anew(tag: str) -> Callable[[np.ndarray], Sequence[str]]:
        def call(query_D: np.ndarray) -> Sequence[str]:
            view._kept.clear()  # as if nobody had asked with this filter before
            return within(tag)(query_D)

        return call

    asked = range(TUNED_WITH, len(world.queries))
    third = range(TUNED_WITH, len(world.queries), 3)
    found: dict[str, Any] = {"open_s": opened_s, "rows": len(view)}
    found["search"] = measured("all", lambda query: view.search(query[None], K)[0][0], asked)
    memory["searched"] = rss_mb()
    found["find"] = measured("all", lambda query: [m.row.id for m in find(view, Query(query[None]), K)], asked)
    memory["found"] = rss_mb()
    found["filtered_anew"] = {tag: measured(tag, anew(tag), third) for tag in TAGS}
    found["filtered"] = {tag: measured(tag, within(tag), third) for tag in TAGS}
    memory["filtered"] = rss_mb()
    few = range(TUNED_WITH, len(world.queries), 17)
    found["exact"] = measured("all", lambda query: view.search(query[None], K, exact=True)[0][0], few, 10)
    memory["exact"] = rss_mb()
    return {**found, "memory_mb": memory, "peak_mb": peak_mb()}


def timed(
    call: Callable[[np.ndarray], Sequence[Any]], queries_QD: np.ndarray, asked: range, warm: int = WARM
) -> tuple[list[float], dict[int, Sequence[Any]]]:
    """Milliseconds of each query, the first `warm` of them left out, and what each found."""
    times_ms, found = [], {}
    for number in asked:
        started = time.perf_counter()
        found[number] = call(queries_QD[number])
        times_ms.append(1000 * (time.perf_counter() - started))
    return times_ms[warm:], found


def recalled(world: World, recalls: dict[int, float]) -> dict[str, float]:
    """The recall of the queries with planted neighbours, and of those without."""
    kinds = {"recall": range(world.planted), "recall_bare": range(world.planted, len(world.queries))}
    shares = {name: [value for n, value in recalls.items() if n in numbers] for name, numbers in kinds.items()}
    return {name: float(np.mean(values)) for name, values in shares.items() if values}


def spread(times_ms: list[float]) -> dict[str, Any]:
    p50_ms, p99_ms = np.percentile(times_ms, [50, 99])
    return {"p50_ms": float(p50_ms), "p99_ms": float(p99_ms), "most_ms": max(times_ms), "queries": len(times_ms)}


def share(found_QK: np.ndarray, right_QK: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / K for a, b in zip(found_QK.tolist(), right_QK.tolist(), strict=True)]))


def rss_mb() -> float:
    return psutil.Process().memory_info().rss / 1e6


def peak_mb() -> float:
    """The most that this process has held, as the kernel counts it."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError("this system does not say how much memory a process has held at most")


def forget_peak() -> None:
    """The most memory is counted from here on."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def disk_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def disk_by_part(store: Path) -> dict[str, float]:
    """MB of the vectors' plain copy, of all indexes, of the largest of them, and of the table without its indexes."""
    indexes = sum(disk_mb(path) for path in (store / "tables").glob("*/_indices"))
    parts = {"copy": disk_mb(store / "scans"), "indexes": indexes, "table": disk_mb(store / "tables") - indexes}
    largest = {
        path.name: disk_mb(path) for folder in (store / "tables").glob("*/_indices") for path in folder.iterdir()
    }
    return {**parts, "largest_index": max(largest.values(), default=0.0)}


def missed(rows: dict[str, Any]) -> Iterator[str]:
    """What misses its figure, in words."""
    found = {
        "p50_ms": rows["ask"]["search"]["p50_ms"],
        "p99_ms": rows["ask"]["search"]["p99_ms"],
        "filtered_p50_ms": rows["ask"]["filtered_anew"]["hundredth"]["p50_ms"],
        "build_s": rows["write"]["seconds"] + rows["tune"]["seconds"],
        "peak_mb": max(rows["ask"]["peak_mb"], rows["tune"]["peak_mb"], rows["write"]["peak_mb"]),
    }
    yield from (f"{name} is {value:.1f}, not {MUST[name]}" for name, value in found.items() if value > MUST[name])
    if rows["ask"]["search"]["recall"] < MUST["recall"]:
        yield f"recall is {rows['ask']['search']['recall']:.3f}, not {MUST['recall']}"


def one(step: str, world: World, folder: Path, threads: int) -> dict[str, Any]:
    """A step, in this process."""
    if step in search_peers.STEPS:
        right_QK = np.load(folder / "truth.npz")["all"]
        ground = search_peers.Ground(world, folder, right_QK, TUNED_WITH, threads)
        return search_peers.measure(step, ground, timed=timed, spread=spread, recalled=recalled, peak_mb=peak_mb)
    return {"truth": truth, "write": write, "tune": tune, "ask": ask}[step](world, folder)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="scratch; at 1,000,000 rows it takes 5 GB")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--step", action="append", choices=STEPS, help="only these; default: all")
    parser.add_argument("--one", choices=STEPS, help=argparse.SUPPRESS)
    return parser.parse_args()


def in_a_process(step: str, given: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", step, "--folder", str(given.folder), "--rows", str(given.rows)]
    environment = {**os.environ, **dict.fromkeys(THREADS, str(given.threads))}
    done = subprocess.run(
        [*command, "--threads", str(given.threads)], check=True, stdout=subprocess.PIPE, text=True, env=environment
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    given = parsed()
    folder = given.folder / str(given.rows)
    folder.mkdir(parents=True, exist_ok=True)
    if given.one:
        print(json.dumps(one(given.one, World(given.rows), folder, given.threads)))
        return 0
    found: dict[str, Any] = {"machine": {}, "threads": given.threads, "k": K, "must_at_1000000": MUST, "rows": {}}
    if given.json and given.json.is_file():
        found = json.loads(given.json.read_text(encoding="utf-8"))
    found["machine"] = described("lancedb", "faiss-cpu", "numpy")
    rows = found["rows"].setdefault(str(given.rows), {})
    for step in given.step or STEPS:
        rows[step] = {"load_average_1_min": round(psutil.getloadavg()[0], 1), **in_a_process(step, given)}
        rows[step] = json.loads(json.dumps(rows[step]), parse_float=lambda text: float(f"{float(text):.5g}"))
        print(step, json.dumps(rows[step], indent=1), flush=True)
        if given.json:
            given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if given.rows != 1_000_000 or not {"write", "tune", "ask"} <= rows.keys():
        return 0
    misses = list(missed(rows))
    print("\n".join(misses))
    return int(bool(misses))


if __name__ == "__main__":
    raise SystemExit(main())
