"""What proofs share: arms and seeds run one after the other, each kept as soon as it has ended.

A proof that was stopped goes on where it stood: rows that the result file holds are not made again, and what an arm was
in the middle of is its own affair (the training in its folder resumes). Results of other settings are refused, never
mixed with these.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clapkit.errors import ClapkitError
from clapkit.files import atomic_file

Row = dict[str, Any]
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Proof:
    """Which arms, which seeds, and what was settled before the first of them ran.

    name       of the result file and of the folder of the runs
    arms       what is compared, the parent first
    settings   plain data: whatever a row depends on (steps, folds, templates...)
    """

    name: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    settings: Mapping[str, Any] = field(default_factory=dict)


def run(
    proof: Proof,
    make_row: Callable[[str, int, Path], Mapping[str, Any]],
    *,
    out: Path,
    results: Path | None = None,
    summary: Callable[[Sequence[Row]], Mapping[str, Any]] = lambda rows: {},
) -> list[Row]:
    """All rows of the proof, those that were missing made by `make_row(arm, seed, folder)`.

    Seed by seed, all arms of a seed before the next, so that a proof that is stopped early still compares. `folder` is
    the arm's own under `out`; it may hold what an interrupted attempt left there. After each row the result file
    (`results`, or results/NAME.json beside this file) is written anew, in one step: settings, `summary` of the rows so
    far, rows. Rows of the file that this call does not ask for (other arms, other seeds) stay in it.
    Raises ClapkitError where the file holds results of other settings.
    """
    path = results or RESULTS / f"{proof.name}.json"
    settings = json.loads(json.dumps(proof.settings))
    rows = _rows_of(path, settings)
    for seed in proof.seeds:
        for arm in proof.arms:
            if any((row["arm"], row["seed"]) == (arm, seed) for row in rows):
                continue
            started = time.monotonic()
            made = make_row(arm, seed, out / proof.name / f"{arm}-{seed}")
            rows.append({"arm": arm, "seed": seed, "seconds": round(time.monotonic() - started, 1), **made})
            _write(path, {"settings": settings, "summary": dict(summary(rows)), "rows": rows})
            print(f"{proof.name}: {arm}, seed {seed}: {rows[-1]['seconds']:.0f} s", flush=True)
    _write(path, {"settings": settings, "summary": dict(summary(rows)), "rows": rows})
    return rows


def arguments(description: str, *, seeds: int = 3) -> argparse.Namespace:
    """--data, --out, --seeds (how many, from 0 on) and --results, as every proof on the runner has them."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds the data sets")
    parser.add_argument("--out", type=Path, required=True, help="where the runs go")
    parser.add_argument("--seeds", type=int, default=seeds, help="how many seeds, from 0 on")
    parser.add_argument("--results", type=Path, help="the result file; results/ beside the proof unless given")
    return parser.parse_args()


def _rows_of(path: Path, settings: Mapping[str, Any]) -> list[Row]:
    if not path.exists():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    if found["settings"] != settings:
        other = sorted(k for k in {*found["settings"], *settings} if found["settings"].get(k) != settings.get(k))
        raise ClapkitError(
            f"{path} holds results of other settings ({', '.join(other)} differ): move it away, or name another file"
        )
    return list(found["rows"])


def _write(path: Path, data: Mapping[str, Any]) -> None:
    with atomic_file(path) as file:
        file.write((json.dumps(data, indent=2, allow_nan=False) + "\n").encode())
