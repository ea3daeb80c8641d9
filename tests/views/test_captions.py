"""Sentences made from labels and tags."""

from __future__ import annotations

import pytest

from clapkit.data.clip import Clip
from clapkit.errors import SpecError
from clapkit.text.prompts import TRAINING
from clapkit.views.captions import LabelPrompts

DOG = Clip("c", "c.wav", label="dog", captions=("it barks",))


def test_every_template_is_filled_and_captions_stay(rng):
    view = LabelPrompts(templates=("the sound of {}", "{}"))
    made = view.apply(DOG, view.draw(rng, DOG, ()), {})
    assert made.prompts == ("the sound of dog", "dog") and made.captions == ("it barks",)


def test_a_number_of_templates_is_drawn_without_repeats(rng):
    view = LabelPrompts(per_clip=3)
    drawn = [view.draw(rng, DOG, ())["templates"] for _ in range(100)]
    assert all(len(set(d)) == 3 for d in drawn)
    assert {i for d in drawn for i in d} == set(range(len(TRAINING["sound"])))


def test_tags_speak_where_there_is_no_label(rng):
    tagged = Clip("c", "c.wav", tags=("dog", "rain"))
    view = LabelPrompts(templates=("hear {}",))
    assert view.apply(tagged, view.draw(rng, tagged, ()), {}).prompts == ("hear dog", "hear rain")
    bare = Clip("c", "c.wav")
    assert view.apply(bare, view.draw(rng, bare, ()), {}).prompts == ()


def test_a_second_time_adds_nothing(rng):
    view = LabelPrompts(templates=("hear {}",))
    params = view.draw(rng, DOG, ())
    once = view.apply(DOG, params, {})
    assert view.apply(once, params, {}) == once


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"per_clip": 99}, "per_clip=99: there are 12 templates"),
        ({"per_clip": 0}, "per_clip=0"),
        ({"templates": ()}, "templates is empty"),
        ({"templates": ("no place",)}, "'no place' has no place for the label"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(SpecError, match=message):
        LabelPrompts(**wrong)
