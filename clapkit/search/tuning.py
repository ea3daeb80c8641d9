"""A vector index for a store that has grown beyond comparing with every row, set by the recall that is measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from clapkit.errors import SearchIndexError, SpecError
from clapkit.nearest import unit_rows
from clapkit.search.place import Tuning
from clapkit.search.store import Store
from clapkit.search.view import View

_SCALARS = {
    "id": "BTree",
    "tags": "LabelList",
    "pairs": "LabelList",
    "file": "BTree",
    "duration_s": "BTree",
    "licence": "Bitmap",
}


def tune(
    store: Store,
    *,
    recall: float = 0.95,
    k: int = 10,
    queries_QD: np.ndarray | None = None,
    bits: int = 1,
    sample: int = 100,
    seed: int = 0,
    on_step: Callable[[str], object] = lambda step: None,
) -> Tuning:
    """Build the vector index (IVF with RaBitQ codes, Gao and Long 2024) anew, and find the cheapest way to ask it.

    The share of the true `k` nearest that is found has to reach `recall` on `queries_QD`: give vectors of texts like
    those to come. Without them, `sample` rows with as much noise as signal are asked for. The setting is kept in the
    store, and used above 200,000 rows. `bits`: how many a dimension is coded in. `on_step` is told what begins:
    "copying the vectors", "comparing with every row", "building the index", "trying settings".

    SpecError for a recall outside 0..1, and for settings below 1; SearchIndexError for a store without rows, and where
    no setting reaches the recall: the best that was measured is named.
    """
    if not 0 < recall <= 1 or min(k, bits, sample) < 1:
        raise SpecError(
            f"recall {recall}, k {k}, bits {bits}, sample {sample}: expected 0 < recall <= 1, others from 1"
        )
    store.writer()  # takes the lock, looks at the newest version
    if not len(store):
        raise SearchIndexError(f"{store.place.name} has no rows: index sounds before tuning")
    on_step("copying the vectors")
    store.view.scan()
    on_step("comparing with every row")
    queries_QD = _queries(store.view, sample, seed) if queries_QD is None else queries_QD
    queries_QD = unit_rows(queries_QD, what="the queries")
    true_Q = [set(ids) for ids in store.view.search(queries_QD, k, exact=True)[0]]
    partitions = max(1, round(math.sqrt(len(store))))
    on_step("building the index")
    _build(store, partitions, bits)
    on_step("trying settings")
    best = 0.0
    for refine, parts in _ladder(partitions):
        tuning = Tuning(parts, refine, 0.0, bits)
        found = _recall(store.view, queries_QD, k, tuning, true_Q)
        best = max(best, found)
        if found >= recall:
            tuning = replace(tuning, recall=found, rows=len(store))
            head = store.place.read()
            store.place.write(head.with_space(replace(store.view.space, tuning=tuning)))
            store.refresh()
            return tuning
    raise SearchIndexError(
        f"no setting finds {recall:.3f} of the nearest {k}, the best found {best:.3f}: use more bits"
    )


def _ladder(partitions: int) -> Iterator[tuple[int, int]]:
    """How often to score again and how many parts to look into, the cheap ones first."""
    parts = 4
    while parts < 2 * partitions:
        for refine in (4, 12, 40):
            yield refine, min(parts, partitions)
        parts *= 2


def _recall(view: View, queries_QD: np.ndarray, k: int, tuning: Tuning, true_Q: list[set[str]]) -> float:
    found_Q = view.approximate(queries_QD, k, tuning=tuning)[0]
    return float(np.mean([len(true & set(ids)) / len(true) for true, ids in zip(true_Q, found_Q, strict=True)]))


def _queries(view: View, sample: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scan = view.scan()
    rows_SD = np.asarray(
        scan.vectors[np.sort(rng.choice(len(view), min(sample, len(view)), replace=False))], np.float32
    )
    return rows_SD + rng.standard_normal(rows_SD.shape) / math.sqrt(rows_SD.shape[1])


def _build(store: Store, partitions: int, bits: int) -> None:
    from lancedb import index

    before, writer = store.view, store.writer()
    config = index.IvfRq(distance_type="cosine", num_partitions=partitions, num_bits=bits)
    configs = {"vector": config, **{column: getattr(index, kind)() for column, kind in _SCALARS.items()}}
    writer.build(configs)
    if store.view.version == before.version + len(configs):  # nobody has written rows meanwhile, through a URL
        before.hand_scan_to(store.view)
