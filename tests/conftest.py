"""Fixtures shared by all tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real sound that may lie beside the repository; tests that need it are skipped without it."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside the repository: real-sound tests are skipped")
    return folder


@pytest.fixture(scope="session")
def shared_oracles() -> Path:
    """The folder of reference outputs that may lie beside the repository."""
    folder = SHARED / "oracles"
    if not folder.is_dir():
        pytest.skip("no ../shared/oracles beside the repository: these parity tests are skipped")
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """No test reads or writes the user's caches."""
    monkeypatch.setenv("CLAPKIT_CACHE", str(tmp_path_factory.getbasetemp() / "clapkit-cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261123)
