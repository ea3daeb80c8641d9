"""The same queries by other libraries, for `benchmarks/search.py`: each as its documentation has it."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from search_world import World

STEPS = ("faiss", "lancedb", "numpy")
K, RECALL = 10, 0.95
MOST_FLAT_ROWS = 200_000
TRAINED_WITH = 100_000  # vectors, by faiss
Found = Callable[[np.ndarray], list[int]]


@dataclass(frozen=True)
class Ground:
    """What all are given: the library, a folder, the right rows of each query, how many queries are for tuning."""

    world: World
    folder: Path
    right_QK: np.ndarray
    tuned_with: int
    threads: int


def measure(step: str, ground: Ground, **how: Callable[..., Any]) -> dict[str, Any]:
    """The figures of one library; `how`: the functions that time and sum up, the same as for the store."""
    return {"faiss": _faiss, "lancedb": _lancedb, "numpy": _numpy}[step](ground, **how)


def _asked(
    find: Found, ground: Ground, *, timed: Callable, spread: Callable, recalled: Callable, **_: Any
) -> dict[str, Any]:
    world = ground.world
    times_ms, found = timed(find, world.queries, range(ground.tuned_with, len(world.queries)))
    recalls = {n: len(set(ground.right_QK[n].tolist()) & set(rows)) / K for n, rows in found.items()}
    return {**spread(times_ms), **recalled(world, recalls)}


def _recall(find: Found, ground: Ground) -> float:
    hits = [
        len(set(find(ground.world.queries[n])) & set(ground.right_QK[n].tolist())) for n in range(ground.tuned_with)
    ]
    return sum(hits) / K / len(hits)


def _settings(parts: int) -> Iterator[tuple[int, int]]:
    """(parts looked into, second scorings for each result), as `clapkit.search.tuning` tries them."""
    tried = 4
    while tried < 2 * parts:
        for refine in (4, 12, 40):
            yield min(tried, parts), refine
        tried *= 2


def _first_good(make: Callable[[int, int], Found], ground: Ground, parts: int) -> tuple[Found | None, dict[str, Any]]:
    """The first setting that reaches the recall on the queries for tuning; None where there is none."""
    best = 0.0
    for tried, refine in _settings(parts):
        find = make(tried, refine)
        best = max(best, recall := _recall(find, ground))
        if recall >= RECALL:
            return find, {"parts": tried, "refine": refine, "recall": recall}
    return None, {"best_recall": best}


def _faiss(ground: Ground, **how: Any) -> dict[str, Any]:
    import faiss

    world = ground.world
    faiss.omp_set_num_threads(ground.threads)
    parts = round(math.sqrt(world.rows))
    started = time.perf_counter()
    index = faiss.index_factory(world.dimension, f"IVF{parts},PQ64,Refine(SQfp16)", faiss.METRIC_INNER_PRODUCT)
    pieces, held = world.pieces(), []
    while sum(map(len, held)) < min(TRAINED_WITH, world.rows):
        held.append(next(pieces)[1])
    index.train(np.concatenate(held))
    trained_s = time.perf_counter() - started
    flat = faiss.IndexFlatIP(world.dimension) if world.rows <= MOST_FLAT_ROWS else None
    adding_s = 0.0
    del held
    for _, vectors_RD in world.pieces():
        started = time.perf_counter()
        index.add(vectors_RD)
        adding_s += time.perf_counter() - started
        if flat is not None:
            flat.add(vectors_RD)

    def make(tried: int, refine: int) -> Found:
        inner = faiss.SearchParametersIVF(nprobe=tried)
        asked = faiss.IndexRefineSearchParameters(k_factor=refine, base_index_params=inner)
        return lambda query_D: index.search(query_D[None], K, params=asked)[1][0].tolist()

    find, setting = _first_good(make, ground, parts)
    found = {"index": f"IVF{parts},PQ64,Refine(SQfp16)", "seconds": {"training": trained_s, "adding": adding_s}}
    found |= {"setting": setting, **(_asked(find, ground, **how) if find else {})}
    if flat is not None:
        found["flat"] = _asked(lambda query_D: flat.search(query_D[None], K)[1][0].tolist(), ground, **how)
    return {**found, "peak_mb": how["peak_mb"]()}


def _lancedb(ground: Ground, **how: Any) -> dict[str, Any]:
    import lancedb
    import pyarrow as pa

    world = ground.world
    place = ground.folder / "plain"
    shutil.rmtree(place, ignore_errors=True)
    shape = pa.schema([("number", pa.int64()), ("vector", pa.list_(pa.float16(), world.dimension))])

    def batches() -> Iterator[pa.RecordBatch]:
        for first, vectors_RD in world.pieces():
            flat = pa.array(vectors_RD.astype(np.float16).ravel())
            columns = [pa.array(range(first, first + len(vectors_RD))), pa.FixedSizeListArray.from_arrays(flat, 512)]
            yield pa.RecordBatch.from_arrays(columns, schema=shape)

    started = time.perf_counter()
    table = lancedb.connect(str(place)).create_table(
        "plain", pa.RecordBatchReader.from_batches(shape, batches()), schema=shape
    )
    written_s = time.perf_counter() - started
    started = time.perf_counter()
    table.create_index("vector", config=lancedb.index.IvfPq(distance_type="cosine"))
    seconds = {"making and writing": written_s, "building the index": time.perf_counter() - started}

    def plain(query_D: np.ndarray) -> list[int]:
        return table.search(query_D).distance_type("cosine").limit(K).select(["number"]).to_arrow()[0].to_pylist()

    def make(tried: int, refine: int) -> Found:
        def find(query_D: np.ndarray) -> list[int]:
            query = table.search(query_D).distance_type("cosine").limit(K).select(["number"])
            return query.nprobes(tried).refine_factor(refine).to_arrow()[0].to_pylist()

        return find

    find, setting = _first_good(make, ground, max(4, world.rows // 4096))
    found = {"seconds": seconds, "as it comes": _asked(plain, ground, **how), "setting": setting}
    found |= {"tuned": _asked(find, ground, **how)} if find else {}
    shutil.rmtree(place)
    return {**found, "peak_mb": how["peak_mb"]()}


def _numpy(ground: Ground, **how: Any) -> dict[str, Any]:
    world = ground.world
    if world.rows > MOST_FLAT_ROWS:
        return {"left_out": f"a matrix of {world.rows:,} rows in float32 takes {world.rows * 2048 / 1e9:.1f} GB"}
    vectors_ND = np.concatenate([vectors_RD for _, vectors_RD in world.pieces()])

    def find(query_D: np.ndarray) -> list[int]:
        return np.argpartition(-(vectors_ND @ query_D), K)[:K].tolist()

    return {**_asked(find, ground, **how), "peak_mb": how["peak_mb"]()}
