"""Rewordings: which are made, which are left alone, and that training keeps off the sentences of the evaluation."""

from __future__ import annotations

import numpy as np
import pytest

from clapkit.data.clip import Clip
from clapkit.errors import SpecError
from clapkit.text.prompts import EVALUATION
from clapkit.views.paraphrase import (
    FILLERS,
    FRAMES,
    OPERATORS,
    SYNONYMS,
    Paraphrase,
    filled,
    recased,
    reframed,
    reordered,
    repunctuated,
    synonym,
)

CLIP = Clip("c", "c.wav", captions=("A dog barks quickly.",), prompts=("a bell can be heard",), wrong=("a cat purrs",))


def forms(operator, *arguments, times: int = 200) -> set[str]:
    """Everything that an operator makes."""
    rng = np.random.default_rng(1)
    return {operator(rng, *arguments) for _ in range(times)}


def test_a_word_goes_for_another_of_its_row():
    assert forms(synonym, "Quickly a dog barks", SYNONYMS) == {"Rapidly a dog barks", "At a fast pace a dog barks"}
    rows = (("car", "automobile"), ("audio recording", "recording"))
    assert forms(synonym, "an audio recording of a car", rows) == {
        "a recording of a car",
        "an audio recording of an automobile",
    }
    assert forms(synonym, "carpets", rows) == {"carpets"}


def test_every_word_of_a_row_leads_to_every_other():
    for row in SYNONYMS:
        for word in row:
            made = forms(synonym, f"x {word} y", (row,))
            assert made == {f"x {other} y" for other in row if other != word}


def test_a_frame_goes_for_another():
    expected = {frame.format("a bell") for frame in FRAMES}
    for frame in FRAMES:
        made = forms(reframed, frame.format("a bell") + ".")
        assert made == {text + "." for text in expected - {frame.format("a bell")}}


@pytest.mark.parametrize(
    "text",
    [
        "a dog barks",
        "can be heard",
        "a dog barks and a bell can be heard",
        "the sound of a dog, then a bell",
        "a bell is heard before rain is heard",
        "",
    ],
)
def test_no_frame_no_rewording(text):
    assert forms(reframed, text, times=20) == {text}


def test_a_frame_inside_a_frame_is_only_taken_off_once():
    made = forms(reframed, "the sound of a bell can be heard")
    assert made == {f.format("the sound of a bell") for f in FRAMES} - {"the sound of a bell can be heard"}


def test_fillers_go_round_and_keep_capital_and_stop():
    made = forms(filled, "A dog barks.")
    assert len(made) == len(FILLERS) and "In this clip, a dog barks." in made and "A dog barks, as recorded." in made
    assert "In this clip, TV plays" in forms(filled, "TV plays")


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("A dog barks and a cat meows.", "A cat meows and a dog barks."),
        ("a dog and a cat", "a cat and a dog"),
        ("people talk loudly and the wind blows", "the wind blows and people talk loudly"),
    ],
)
def test_two_things_that_are_heard_change_places(text, made):
    assert reordered(text) == made and reordered(made) == text


@pytest.mark.parametrize(
    "text",
    [
        "a man speaks and laughs",
        "a dog and a cat fight",
        "a dog barks and then a cat meows",
        "a dog barks before a cat and a bird",
        "a mix of a drum and a flute",
        "a duel between a drum and a flute",
        "a dog, a cat and a bird",
        "a b and a c and a d",
        "rain",
    ],
)
def test_what_may_depend_on_its_place_stays(text):
    assert reordered(text) == text


def test_case_and_stop():
    assert forms(recased, "A dog") == {"a dog", "A DOG"} and forms(recased, "a dog") == {"A dog", "A DOG"}
    assert forms(recased, "123") == {"123"}
    assert repunctuated("a dog") == "a dog." and repunctuated("a dog.") == "a dog" == repunctuated("a dog!")


@pytest.mark.parametrize("operator", OPERATORS)
def test_an_operator_alone_makes_only_its_own_forms(operator):
    texts = {"frame": "a bell can be heard", "order": "a dog barks and a cat meows"}
    text = texts.get(operator, "A dog barks quickly.")
    view, rng = Paraphrase(operators=(operator,)), np.random.default_rng(2)
    made = {view.rewrite(rng, text) for _ in range(100)}
    alone = {
        "synonym": forms(synonym, text, SYNONYMS),
        "frame": forms(reframed, text),
        "filler": forms(filled, text),
        "order": {reordered(text)},
        "case": forms(recased, text),
        "punctuation": {repunctuated(text)},
    }
    assert made == alone[operator] and text not in made


def test_true_and_wrong_texts_get_as_many_forms_each_in_its_place(rng):
    view = Paraphrase(per_clip=3, operators=("filler",))
    made = view.apply(CLIP, view.draw(rng, CLIP, ()), {})
    for kind, word in (("captions", "dog"), ("prompts", "bell"), ("wrong", "cat")):
        before, after = getattr(CLIP, kind), getattr(made, kind)
        assert after[: len(before)] == before and 1 <= len(after) - len(before) <= 3
        assert all(word in text for text in after)
    assert view.apply(Clip("x", "x"), view.draw(rng, Clip("x", "x"), ()), {}) == Clip("x", "x")


def test_a_text_to_which_nothing_applies_stays(rng):
    assert Paraphrase(operators=("order", "frame")).draw(rng, CLIP.with_(prompts=()), ())["captions"] == []


def test_training_keeps_off_the_sentences_of_the_evaluation():
    kept = {template for templates in EVALUATION.values() for template in templates}
    assert not kept & {*FRAMES, *FILLERS}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"operators": ()}, "operators is empty"),
        ({"operators": ("synonims",)}, "there is no operator 'synonims'; did you mean 'synonym'"),
        ({"per_clip": 0}, "per_clip is a number of sentences, at least 1, not 0"),
        ({"synonyms": (("one",),)}, r"synonyms: a row holds two words or more, not \('one',\)"),
        ({"synonyms": ("ab",)}, "synonyms: a row holds two words or more, not 'ab'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(SpecError, match=message):
        Paraphrase(**wrong)
