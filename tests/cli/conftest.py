"""One tiny sound world and one tiny run, made once by the commands themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

SIZES = {"train": 48, "test": 38, "test_scenes": 4, "test_combinations": 4, "test_kinds": 4}


@pytest.fixture(scope="session")
def clapkit(tmp_path_factory):
    """Call the command as from a shell: `clapkit("embed", path, ...)` gives exit_code, stdout and stderr."""
    from clapkit.cli.main import app

    cache = str(tmp_path_factory.getbasetemp() / "clapkit-cache")

    def call(*words, **environment):
        env = {"CLAPKIT_CACHE": cache, "HF_HUB_OFFLINE": "1", **environment}
        return CliRunner().invoke(app, [str(word) for word in words], env=env)

    return call


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """The manifest of a small sound world."""
    from clapkit.building.soundworld import write_world

    return write_world(tmp_path_factory.mktemp("cli") / "world", **SIZES)


@pytest.fixture(scope="session")
def train_words(world):
    """The words of a training that takes seconds; --out is still missing."""
    return (
        "train",
        "soundworld",
        "--data",
        world,
        "--split",
        "split=train",
        "--scale",
        "tiny",
        "--set",
        "train.steps=8",
    )


@pytest.fixture(scope="session")
def trained(clapkit, train_words, world, tmp_path_factory):
    """The outcome of `clapkit train ... --val ...`, and the folder of its run."""
    run = tmp_path_factory.mktemp("cli-run") / "run"
    outcome = clapkit(*train_words, "--val", world, "--val-split", "split=test", "--out", run)
    assert outcome.exit_code == 0, outcome.output
    return outcome, run


@pytest.fixture(scope="session")
def run(trained) -> Path:
    return trained[1]


@pytest.fixture(scope="session")
def sounds(world) -> Path:
    """A folder with four sounds."""
    return world.parent / "audio" / "test_kinds"
