"""Sentences made from labels and tags."""

from __future__ import annotations

from itertools import permutations

import pytest

from clapkit.data.clip import Clip
from clapkit.errors import SpecError
from clapkit.text.prompts import TRAINING
from clapkit.views.captions import CLAUSES, NEUTRAL, KeywordsToCaption, LabelPrompts, TagsToSentence, listed

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


def test_tags_become_sentences_of_some_of_them(rng):
    tagged = Clip("c", "c.wav", tags=("dog", "Rain_drops", "wind", "DOG", " "))
    view = TagsToSentence(templates=("the sounds of {}",), most=2, per_clip=200)
    made = view.apply(tagged, view.draw(rng, tagged, ()), {})
    names = ("dog", "Rain drops", "wind")
    expected = {f"the sounds of {a}" for a in names} | {f"the sounds of {a} and {b}" for a, b in permutations(names, 2)}
    assert set(made.captions) == expected
    assert view.draw(rng, Clip("c", "c.wav"), ()) == {"sentences": []}


def test_keywords_become_clauses_and_nobody_is_guessed(rng):
    clip = Clip("c", "c.wav", label="dog", tags=("Dog", "male_speech", "zither"))
    view = KeywordsToCaption(clauses=(("dog", "a dog barks"), ("human speech", "a person talks")), per_clip=200)
    made = view.apply(clip, view.draw(rng, clip, ()), {}).captions
    clauses = ("a dog barks", "a person talks", "zither is heard")
    assert set(made) == {listed(p) for n in (1, 2, 3) for p in permutations(clauses, n)}


def test_the_table_of_clauses_names_each_keyword_once_and_passes_the_neutral_words():
    names = [name for name, _ in CLAUSES]
    assert len(set(names)) == len(names) and all(name == name.lower() for name in names)
    gendered = {word for word, _ in NEUTRAL}
    assert not gendered & {word for row in CLAUSES for text in row for word in text.split()}


@pytest.mark.parametrize(
    ("names", "text"), [((), ""), (("a",), "a"), (("a", "b"), "a and b"), (("a", "b", "c"), "a, b and c")]
)
def test_lists_in_words(names, text):
    assert listed(names) == text


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: TagsToSentence(templates=()), "templates is empty"),
        (lambda: TagsToSentence(templates=("no place",)), "'no place' has no place for the label"),
        (lambda: TagsToSentence(into="wrong"), "into is 'captions' or 'prompts', not 'wrong'"),
        (lambda: TagsToSentence(most=0), "most is a number of names in a sentence, at least 1, not 0"),
        (lambda: KeywordsToCaption(per_clip=-1), "per_clip is a number of sentences, at least 1, not -1"),
    ],
)
def test_sentences_of_tags_refuse_what_makes_no_sense(wrong, message):
    with pytest.raises(SpecError, match=message):
        wrong()
