"""Decoder processes are kept for the next call, never shared by two, and gone when nobody wants them."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

from clapkit.audio import lending
from clapkit.audio.pool import DecodeRequest
from clapkit.errors import ClapkitError


@pytest.fixture
def sound(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.linspace(-0.5, 0.5, 800), 8000)
    return str(path)


@pytest.fixture(autouse=True)
def nothing_is_kept():
    lending._close_all()
    yield
    lending._close_all()


def decode(pool, sound):
    ((_, found),) = pool.map([DecodeRequest(sound)])
    assert len(found.samples) == 800
    return pool.process_ids


def test_the_processes_of_one_call_serve_the_next(sound):
    with lending.borrowed_pool(1) as pool:
        first = decode(pool, sound)
    with lending.borrowed_pool(1) as pool:
        assert decode(pool, sound) == first
    with lending.borrowed_pool(2) as other:
        assert not set(decode(other, sound)) & set(first)


def test_two_calls_at_a_time_have_their_own(sound):
    with lending.borrowed_pool(1) as one, lending.borrowed_pool(1) as two:
        assert one is not two
        kept, closed = decode(two, sound), decode(one, sound)
    assert len(lending._idle) == 1 and kept != closed


def test_a_call_that_ends_early_leaves_nothing(sound):
    with pytest.raises(ValueError, match="early"), lending.borrowed_pool(1) as pool:
        decode(pool, sound)
        raise ValueError("early")
    assert not lending._idle
    with pytest.raises(ClapkitError, match="closed"):
        pool.map([DecodeRequest(sound)])


def test_idle_processes_end(sound, monkeypatch):
    monkeypatch.setattr(lending, "IDLE_S", 0.05)
    with lending.borrowed_pool(1) as pool:
        decode(pool, sound)
    deadline = time.monotonic() + 20
    while (lending._idle or pool.process_ids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not lending._idle and not pool.process_ids


def test_the_interpreter_ends_with_idle_processes(sound):
    script = (
        "import sys; from clapkit.audio import lending; from clapkit.audio.pool import DecodeRequest\n"
        "with lending.borrowed_pool(1) as pool: print(len(list(pool.map([DecodeRequest(sys.argv[1])]))))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, sound], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "1", "")
