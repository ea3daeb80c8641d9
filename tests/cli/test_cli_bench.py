"""clapkit bench: a table and JSON of what this machine does with a model."""

from __future__ import annotations

import json

import pytest

import clapkit as library
from clapkit.errors import SpecError
from clapkit.runtime.bench import bench


def test_every_stage_is_measured(clapkit, run, tmp_path):
    outcome = clapkit(
        *("bench", run, "--clips", "3", "--seconds", "0.5", "--rounds", "1", "--json", tmp_path / "b.json")
    )
    assert outcome.exit_code == 0, outcome.output
    told = json.loads((tmp_path / "b.json").read_bytes())
    stages = {row["stage"]: row for row in told["stages"]}
    assert list(stages) == ["decode", "mel", "tower", "end to end", "text"]
    for name, row in stages.items():
        assert name in outcome.stdout and 0 < row["ms"] < 60_000
        assert row["per_second"] == pytest.approx(1000 / row["ms"], rel=0.05)
    assert stages["end to end"]["times_real_time"] == pytest.approx(500 / stages["end to end"]["ms"], rel=0.05)
    assert "times_real_time" not in stages["text"]
    assert told["machine"]["matrix_fp32_gflops"] > 0 and (told["clips"], told["clip_s"]) == (3, 0.5)


def test_what_cannot_be_measured_is_refused(run):
    with pytest.raises(SpecError, match="at least one"):
        bench(library.load(run), clips=0)
