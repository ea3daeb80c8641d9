"""The launch line that docs/training.md gives for machines without accelerators, word for word."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "training.md"


@pytest.fixture(scope="module")
def launched(world, tmp_path_factory):
    """What the line left behind in a folder where the world lies under the name that it has in the document."""
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    (line,) = (line for line in lines if line.startswith("torchrun ") and line.endswith("--device cpu"))
    folder = tmp_path_factory.mktemp("launched")
    words = [str(world) if word == "world/manifest.jsonl" else word for word in shlex.split(line)]
    # torchrun is this module; --standalone has it find a free port, where the tests of others may run at the same time
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", *words[1:]]
    environment = {**os.environ, "CLAPKIT_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done, folder / "two"


def test_the_first_process_alone_speaks_and_writes(launched):
    done, run = launched
    assert done.stderr.count("4 steps in ") == 1 and done.stderr.count("48 of 98 rows") == 1
    assert [json.loads(line)["step"] for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()][-1] == 3
    assert not list(run.rglob(".*partial"))


def test_the_result_is_a_model_like_any_other(launched, clapkit, sounds):
    outcome = clapkit("classify", sounds, "--labels", "rain,dog bark", "--model", launched[1], "--device", "cpu")
    assert outcome.exit_code == 0, outcome.output
