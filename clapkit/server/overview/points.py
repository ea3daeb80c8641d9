"""A map of a store: every file a point, those whose sounds are alike side by side."""

from __future__ import annotations

from typing import Any

import numpy as np

from clapkit.search.view import columns
from clapkit.server.rows import Row, StoreRows
from clapkit.server.shelf import Shelf

_LEAST_FOR_TSNE = 8
_KEPT = 50  # principal components that neighbours are looked for in: what is beyond is mostly noise


def points(rows: StoreRows, shelf: Shelf, *, most: int, neighbours: bool) -> dict[str, Any]:
    """As `routes.shapes.Map`: all files, or `most` of them at equal distances in the order of the store.

    The vector of a file is that of its first window. With `neighbours`, t-SNE (van der Maaten and Hinton 2008) where
    scikit-learn is installed, which takes seconds for thousands of files; else the first two principal components.
    """
    ids = sorted(columns(rows.view, ["id"], firsts=True)["id"].to_pylist())
    shown = [ids[n] for n in np.linspace(0, len(ids) - 1, min(most, len(ids))).astype(int)] if ids else []
    method, places_N2 = laid_out(rows.view.vectors(shown), neighbours=neighbours)
    names = ((row, shelf.name(Row(row.id, row.file, row.start_s, None, {}))) for row in rows.view.rows(shown))
    found = [
        {"id": row.id, "x": x, "y": y, "name": name, "tags": list(row.tags)}
        for (row, name), (x, y) in zip(names, places_N2.tolist(), strict=True)
    ]
    return {"points": found, "method": method, "files": len(ids), "final": neighbours}


def laid_out(vectors_ND: np.ndarray, *, neighbours: bool) -> tuple[str, np.ndarray]:
    """Places [N, 2] in 0 to 1, and by what method: "t-SNE", if `neighbours` are wanted and it can be, or "PCA"."""
    main_NK = _principal(vectors_ND)
    if neighbours and len(vectors_ND) >= _LEAST_FOR_TSNE and (places_N2 := _tsne(main_NK)) is not None:
        return "t-SNE", _scaled(places_N2)
    return "PCA", _scaled(main_NK[:, :2])


def _principal(vectors_ND: np.ndarray) -> np.ndarray:
    """The coordinates [N, up to 50] along the directions in which unit rows differ most; at least two columns."""
    if not len(vectors_ND):
        return np.zeros((0, 2))
    centred_ND = vectors_ND - vectors_ND.mean(axis=0)
    _, directions_DD = np.linalg.eigh(centred_ND.T.astype(np.float64) @ centred_ND)
    main_NK = centred_ND @ directions_DD[:, ::-1][:, :_KEPT]
    return main_NK if main_NK.shape[1] > 1 else np.column_stack([main_NK, np.zeros(len(main_NK))])


def _tsne(main_NK: np.ndarray) -> np.ndarray | None:
    try:
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits
    except ImportError:
        return None
    perplexity = min(30.0, (len(main_NK) - 1) / 3)
    with threadpool_limits(1, user_api="openmp"):  # of this thread only: others are to be answered meanwhile
        return TSNE(perplexity=perplexity, init="pca", random_state=0, max_iter=500).fit_transform(main_NK)


def _scaled(places_N2: np.ndarray) -> np.ndarray:
    if not len(places_N2):
        return places_N2
    low_2, high_2 = places_N2.min(axis=0), places_N2.max(axis=0)
    return np.where(high_2 > low_2, (places_N2 - low_2) / np.where(high_2 > low_2, high_2 - low_2, 1), 0.5)
