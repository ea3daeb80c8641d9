"""Batches side by side: every vector in its place, errors told, threads left as they were."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

import clapkit
from clapkit.runtime.cutting import Cut
from clapkit.runtime.engine import AudioEngine
from clapkit.runtime.lanes import Lanes, open_threads


class Program:
    """Asks for lanes and notes what happens in them."""

    def __init__(self, lanes: int) -> None:
        self.lanes, self.entered, self.told = lanes, [], []

    def lane_setup(self):
        return (lambda: self.entered.append(threading.get_ident())), (lambda: self.told.append(len(self.entered)))


def file_of(count: int) -> tuple[Cut, list]:
    file = Cut(0, 4, 4)
    return file, [(file, np.full(4, float(number))) for number in range(count)]


def doubled(windows):
    return [2 * window for window in windows]


@pytest.mark.parametrize("lanes", [1, 3])
def test_vectors_are_handed_out_in_order_however_long_each_batch_takes(lanes):
    file, windows = file_of(20)

    def encode(batch):
        time.sleep(0.02 if batch[0][0] % 4 == 0 else 0.0)
        return doubled(batch)

    with Lanes(Program(lanes), encode) as running:
        for first in range(0, 18, 2):
            running.put(windows[first : first + 2])
            running.settle()
        running.put_last(windows[18:])
        running.finish()
    assert [v[0] for v in file.vectors] == [2.0 * number for number in range(20)]


def test_lanes_work_at_the_same_time_and_are_set_up_once():
    program, meeting = Program(3), threading.Barrier(3)
    _, windows = file_of(3)

    def encode(batch):
        meeting.wait(timeout=20)  # passes only if three batches are under way at once
        return batch

    with Lanes(program, encode) as running:
        for number in range(3):
            running.put(windows[number : number + 1])
        running.finish()
    assert len(set(program.entered)) == 3 and program.told == [3]


def test_a_single_window_stays_in_the_calling_thread():
    program, seen = Program(4), []
    file, windows = file_of(1)
    with Lanes(program, lambda batch: seen.append(threading.get_ident()) or batch) as running:
        running.put_last(windows)
        running.finish()
    assert seen == [threading.get_ident()] and not program.entered and len(file.vectors) == 1


def test_the_last_batch_is_cut_up_for_all_lanes():
    sizes = []
    file, windows = file_of(7)
    with Lanes(Program(3), lambda batch: sizes.append(len(batch)) or batch) as running:
        running.put_last(windows)
        running.finish()
    assert sorted(sizes) == [1, 3, 3] and len(file.vectors) == 7


@pytest.mark.parametrize("lanes", [1, 2])
def test_an_error_in_a_lane_is_raised_and_nothing_hangs(lanes):
    _, windows = file_of(8)

    def encode(batch):
        raise ValueError(f"broken at {batch[0][0]}")

    with pytest.raises(ValueError, match="broken at 0"), Lanes(Program(lanes), encode) as running:
        for window in windows:
            running.put([window])
        running.finish()


def test_threads_have_entered_before_anyone_goes_on():
    seen = []
    with open_threads(4, enter=lambda: seen.append("in"), entered=lambda: seen.append("all")) as threads:
        threads.submit(lambda: seen.append("work")).result()
    assert seen == ["in"] * 4 + ["all", "work"]


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_each_lane_of_torch_has_its_share_and_later_threads_have_all(tiny_run):
    clap = clapkit.load(tiny_run.path, device="cpu")
    assert clap.program.lanes == 2
    enter, entered = clap.program.lane_setup()
    with open_threads(2, enter=enter, entered=entered) as threads:
        assert [threads.submit(torch.get_num_threads).result() for _ in range(4)] == [1] * 4
    assert torch.get_num_threads() == 2
    with open_threads(1, enter=lambda: None, entered=lambda: None) as threads:
        assert threads.submit(torch.get_num_threads).result() == 2


@pytest.mark.usefixtures("two_threads")
def test_the_vectors_are_those_of_one_lane(tiny_run, toy_clips, monkeypatch):
    clap = clapkit.load(tiny_run.path, device="cpu")
    sounds = [(np.resize(clip.audio, 3000 + 700 * i), 8000) for i, clip in enumerate(toy_clips[:9])]

    def vectors(batch_size):
        found = {r.index: r.vector_D for r in AudioEngine(clap.program, batch_size=batch_size).embed(sounds)}
        return np.stack([found[i] for i in range(len(sounds))])

    side_by_side = vectors(2)
    assert np.array_equal(side_by_side, vectors(2)), "the same call twice gives the same bits"
    monkeypatch.setattr(type(clap.program), "lanes", 1)
    np.testing.assert_allclose(side_by_side, vectors(2), atol=1e-6)
    np.testing.assert_allclose(side_by_side, vectors(32), atol=1e-6)
