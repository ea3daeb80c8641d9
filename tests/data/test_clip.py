"""The record that travels through the whole library."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from clapkit.data.batches import BatchSize
from clapkit.data.clip import Clip
from clapkit.errors import SpecError


def test_a_changed_clip_is_another_clip():
    clip = Clip("a", "a.wav", captions=("one",))
    assert clip.with_(label="dog").label == "dog" and clip.label is None
    with pytest.raises(FrozenInstanceError):
        clip.label = "dog"


@pytest.mark.parametrize(("wrong", "message"), [({"clips": 1}, "at least 2 clips, not 1"), ({"clip_s": 0}, "not 0")])
def test_batches_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(SpecError, match=message):
        BatchSize(**wrong)
