"""How well a store finds real sound: by class name and by sound, plain, with hubs held back, with words beside.

    python benchmarks/search_quality.py RUN --data DATA --json benchmarks/results/search_quality.json --trained-on "..."

ESC-50 (fold 5 unless --folds says otherwise) and berklee (of the labels, those with at least four clips are asked for).
Every clip is one row of a store, with its file name, and for ESC-50 the title that its original has at Freesound, as
metadata; labels are not in the store. All that is asked goes through `clapkit.search.query.find`. Intervals resample
the classes where names ask, recordings where sounds do (clips, where a data set does not name recordings).

by name    the bare class name: mean average precision within ten (divided by min(10, clips of the class)), and the
           share of the first ten that is right (of a class with fewer clips: of as many)
by sound   each clip asks for the others of its class, itself left out of the list
plain, csls, qbnorm   the order of cosines; hubs held back, measured with a bank of names of other sounds than those
           asked for (the class names of berklee for ESC-50, of ESC-50 for berklee)
hybrid     reciprocal rank of the vectors and of words in file names, titles and folders. The labels of berklee were
           made from its file names, so there words alone find nearly everything
words      the words alone
shuffled   plain, with the sounds' vectors dealt anew among the clips (seed 0)
chance     the expectation over all orders

Vectors are kept in --vectors where it is given, and read from there: one .npy a data set.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import clapkit
from clapkit.data.clip import Clip
from clapkit.data.manifest import read_all
from clapkit.evaluation.metrics import average_precision
from clapkit.evaluation.report import Result, Score, protocol
from clapkit.search.query import Query, Shown, find
from clapkit.search.rows import Row
from clapkit.search.store import Store

K = 10
LEAST_CLIPS = 4
SAMPLES = 1000


@dataclass(frozen=True)
class Collection:
    """Labelled clips, their vectors, what is resampled together, and texts that stand for other queries."""

    name: str
    clips: Sequence[Clip]
    audio_ND: np.ndarray
    groups: Sequence[str]
    bank: Sequence[str]

    @property
    def labels(self) -> list[str]:
        return [str(clip.label) for clip in self.clips]

    @property
    def classes(self) -> list[str]:
        """The labels that have enough clips to be asked for."""
        return sorted(name for name, count in Counter(self.labels).items() if count >= LEAST_CLIPS)


def rows_of(collection: Collection) -> list[Row]:
    """A row a clip: its name, and the title that its author gave it."""
    return [
        Row(
            f"{collection.name}/{Path(str(clip.audio)).name}", 0, 0.0, 5.0, f"{n:032x}", "as loaded",
            metadata={"title": clip.meta["title"]} if "title" in clip.meta else {},
        )
        for n, clip in enumerate(collection.clips)
    ]  # fmt: skip


Asked = Callable[[str | None, np.ndarray], list[str]]


def ways(store: Store, bank_BD: np.ndarray) -> dict[str, Asked]:
    """Each way of asking: (text, vector) to ids, best first, one more than are looked at."""
    view = store.view
    everything = len(view) // (K + 1) + 1  # so that every row is a candidate

    def by(shown: Shown | None = None, *, hybrid: bool = False) -> Asked:
        def asked(text: str | None, vector_D: np.ndarray) -> list[str]:
            query = Query(vector_D[None], words=text if hybrid else None)
            return [match.row.id for match in find(view, query, K + 1, shown=shown)]

        return asked

    return {
        "plain": by(),
        "csls": by(Shown(bank_BD=bank_BD, pool=everything)),
        "qbnorm": by(Shown(bank_BD=bank_BD, corrected="qbnorm", pool=everything)),
        "hybrid": by(hybrid=True),
        "words": lambda text, vector_D: [name for name, _ in view.words(text or "", K + 1)],
    }


def scored(found: Sequence[str], right: set[str]) -> tuple[float, float]:
    """Average precision within ten, and precision, of one list."""
    most = min(K, len(right))
    hits = np.array([name in right for name in found[:K]], bool)
    precision_K = hits.cumsum() / np.arange(1, len(hits) + 1)
    return float((precision_K * hits).sum() / most), float(hits[:most].sum() / most)


def lists(
    collection: Collection, asked: Asked, ids: Sequence[str], queries: Iterator[tuple[str | None, np.ndarray, str, int]]
) -> list[tuple[float, float]]:
    """(average precision, precision) of each query: (text, vector, class, clip that asks or -1)."""
    labels = collection.labels
    found = []
    for text, vector_D, label, own in queries:
        right = {name for n, name in enumerate(ids) if labels[n] == label and n != own}
        answer = [name for name in asked(text, vector_D) if own < 0 or name != ids[own]]
        found.append(scored(answer, right))
    return found


def measure(collection: Collection, text_CD: np.ndarray, bank_BD: np.ndarray) -> dict[str, dict[str, Any]]:
    """All scores, in the evaluation's form."""
    labels, classes = collection.labels, collection.classes
    wanted = [n for n, label in enumerate(labels) if label in set(classes)]
    dealt = np.random.default_rng(0).permutation(len(labels))
    scores: dict[str, dict[str, Score]] = {}
    with tempfile.TemporaryDirectory() as place:
        for arm, audio_ND in (("true", collection.audio_ND), ("shuffled", collection.audio_ND[dealt])):
            about = {"space_id": "s", "pipeline_id": "as loaded", "dimension": audio_ND.shape[1], "dtype": "float32"}
            with Store.create(Path(place) / arm, **about) as store:
                rows = rows_of(collection)
                store.add(rows, audio_ND)
                ids = [row.id for row in rows]
                every = ways(store, bank_BD)
                for name, asked in every.items() if arm == "true" else [("plain", every["plain"])]:
                    way = name if arm == "true" else arm
                    by_name = zip(classes, text_CD, classes, [-1] * len(classes), strict=True)
                    scores.setdefault("by name", {}).update(
                        named(way, lists(collection, asked, ids, by_name), collection, classes, None)
                    )
                    if way in ("hybrid", "words"):
                        continue  # a sound brings no words
                    by_sound = ((None, audio_ND[n], labels[n], n) for n in wanted)
                    scores.setdefault("by sound", {}).update(
                        named(way, lists(collection, asked, ids, by_sound), collection, classes, wanted)
                    )
    return {kind: result(kind, collection, metrics, len(wanted)) for kind, metrics in scores.items()}


def named(
    way: str, values: list[tuple[float, float]], collection: Collection, classes: list[str], wanted: list[int] | None
) -> dict[str, Score]:
    """Scores with intervals: over classes where names ask, over recordings where sounds do."""
    labels = collection.labels
    groups = classes if wanted is None else [collection.groups[n] for n in wanted]
    asked = classes if wanted is None else [labels[n] for n in wanted]
    counts = Counter(labels)
    less = 0 if wanted is None else 1
    gallery = len(labels) - less
    scores = {}
    for place, metric in enumerate(("map@10", "p@10")):
        values_Q = np.array([value[place] for value in values])
        rights = [counts[name] - less for name in asked]
        chance = np.mean([by_chance(metric, right, gallery) for right in rights])
        scores[f"{metric} {way}"] = Score.measure(
            lambda counts_SN, v=values_Q: (counts_SN * v).sum(1) / np.maximum(counts_SN.sum(1), 1),
            n=len(values_Q), groups=groups, samples=SAMPLES, chance=float(chance),
        )  # fmt: skip
    return scores


def by_chance(metric: str, right: int, gallery: int) -> float:
    if metric == "p@10":
        return right / gallery
    return average_precision(np.zeros(gallery), np.arange(gallery) < right, cutoff=K)


def result(kind: str, collection: Collection, metrics: dict[str, Score], asking: int) -> dict[str, Any]:
    resampled = "classes" if kind == "by name" else "recordings" if collection.name == "esc50" else "clips"
    said = protocol(samples=SAMPLES, seed=0, resampled=resampled, classes=len(collection.classes), asking=asking,
                    bank=len(collection.bank), k=K)  # fmt: skip
    return Result(f"search {kind}", len(collection.clips), said, metrics).to_json()


def collections(data: Path, folds: set[str], kept: Path | None, embed: Callable[[list[str]], np.ndarray]
                ) -> Iterator[Collection]:  # fmt: skip
    names = {}
    held = {name: list(read_all([data / name / "manifest.csv"]).clips) for name in ("esc50", "berklee")}
    for name, clips in held.items():
        names[name] = sorted(label for label, n in Counter(str(c.label) for c in clips).items() if n >= LEAST_CLIPS)
    for name, other in (("esc50", "berklee"), ("berklee", "esc50")):
        path = kept / f"{name}.npy" if kept else None
        if path and path.is_file():
            audio_ND = np.load(path)
        else:
            audio_ND = embed([str(clip.audio) for clip in held[name]])
            if path:
                np.save(path, audio_ND)
        mine = [n for n, clip in enumerate(held[name]) if name != "esc50" or clip.split in folds]
        clips = [held[name][n] for n in mine]
        groups = [str(clip.meta.get("freesound_id", clip.id)) for clip in clips]
        yield Collection(name, clips, audio_ND[mine], groups, names[other])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds esc50/ and berklee/")
    parser.add_argument("--json", type=Path, required=True, help="other models in it are kept")
    parser.add_argument("--name", required=True, help="of the model, in the result")
    parser.add_argument("--trained-on", required=True, help="what the model has seen, in words")
    parser.add_argument("--folds", default="fold5")
    parser.add_argument("--vectors", type=Path)
    given = parser.parse_args()
    clap = clapkit.load(given.run)
    found = json.loads(given.json.read_text(encoding="utf-8")) if given.json.is_file() else {}
    results = {}
    for one in collections(given.data, set(given.folds.split(",")), given.vectors, clap.embed_audio):
        results[one.name] = measure(one, clap.embed_text(one.classes), clap.embed_text(list(one.bank)))
        for kind, told in results[one.name].items():
            print(one.name, kind, told["n"])
            for metric, score in told["metrics"].items():
                print(
                    f"  {metric:18} {score['value']:.3f}  {score['low']:.3f}-{score['high']:.3f}  {score['chance']:.3f}"
                )
    found[given.name] = {"trained_on": given.trained_on, "space_id": clap.space_id, "results": results}
    given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
