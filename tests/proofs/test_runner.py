"""The runner of the proofs: nothing is made twice, nothing is lost, nothing is mixed."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from clapkit.errors import ClapkitError

PROOFS = Path(__file__).resolve().parents[2] / "proofs"


@pytest.fixture(scope="module")
def runner():
    found = importlib.util.spec_from_file_location("proofs_runner", PROOFS / "runner.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module  # dataclasses look their module up
    found.loader.exec_module(module)
    yield module
    del sys.modules[found.name]


def test_stopped_proof_goes_on_where_it_stood(runner, tmp_path):
    proof = runner.Proof("order", ("parent", "method"), (0, 1), {"steps": 3})
    asked: list[tuple[str, int]] = []

    def make_row(arm: str, seed: int, folder: Path) -> dict:
        asked.append((arm, seed))
        assert folder == tmp_path / "runs" / "order" / f"{arm}-{seed}"
        if asked[-1] == ("parent", 1) and asked.count(("parent", 1)) == 1:
            raise KeyboardInterrupt
        return {"accuracy": seed + len(arm)}

    there = {"out": tmp_path / "runs", "results": tmp_path / "order.json"}
    with pytest.raises(KeyboardInterrupt):
        runner.run(proof, make_row, **there)
    assert [(r["arm"], r["seed"]) for r in json.loads(there["results"].read_text())["rows"]] == [
        ("parent", 0),
        ("method", 0),
    ]
    rows = runner.run(proof, make_row, summary=lambda rows: {"rows": len(rows)}, **there)
    assert asked == [("parent", 0), ("method", 0), ("parent", 1), ("parent", 1), ("method", 1)]
    assert [(r["arm"], r["seed"], r["accuracy"]) for r in rows] == [
        ("parent", 0, 6),
        ("method", 0, 6),
        ("parent", 1, 7),
        ("method", 1, 7),
    ]
    written = json.loads(there["results"].read_text())
    assert (written["settings"], written["summary"], written["rows"]) == ({"steps": 3}, {"rows": 4}, rows)
    runner.run(proof, make_row, **there)
    assert len(asked) == 5


def test_fewer_seeds_leave_the_rows_of_others_alone(runner, tmp_path):
    there = {"out": tmp_path, "results": tmp_path / "a.json"}
    runner.run(runner.Proof("a", ("x",), (0, 1)), lambda arm, seed, folder: {}, **there)
    rows = runner.run(runner.Proof("a", ("x", "y"), (0,)), lambda arm, seed, folder: {}, **there)
    assert [(r["arm"], r["seed"]) for r in rows] == [("x", 0), ("x", 1), ("y", 0)]


def test_results_of_other_settings_are_refused(runner, tmp_path):
    there = {"out": tmp_path, "results": tmp_path / "a.json"}
    runner.run(runner.Proof("a", ("x",), settings={"steps": 3, "fold": (5,)}), lambda *given: {}, **there)
    with pytest.raises(ClapkitError, match=r"a\.json holds results of other settings \(steps differ\)"):
        runner.run(runner.Proof("a", ("x",), settings={"steps": 4, "fold": (5,)}), lambda *given: {}, **there)
