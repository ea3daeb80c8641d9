"""Sentences about two events: put together, and turned round."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clapkit.views.connectives import BACKGROUND, LOUDER, OVERLAP, SEQUENCE, connect, swap_order
from clapkit.views.partners import turned

EVENTS = ["a dog barks", "rain falls", "somebody knocks at a door", "TV plays", "a bell rings twice", "I sing"]


@pytest.mark.parametrize(
    ("text", "swapped"),
    [
        ("a dog barks, then a cat meows", "a cat meows, then a dog barks"),
        ("A dog barks and then rain falls.", "Rain falls and then a dog barks."),
        ("A dog barks followed by a cat.", "A cat followed by a dog barks."),
        ("a, then b, then c", "c, then b, then a"),
        ("a dog barks. Then a cat meows.", "a cat meows. Then a dog barks."),
        ("First a dog barks, then a cat meows", "First a cat meows, then a dog barks"),
        ("A dog barks before a cat meows", "A dog barks after a cat meows"),
        ("After a cat meows, a dog barks", "Before a cat meows, a dog barks"),
        ("A DOG AFTER A CAT", "A DOG BEFORE A CAT"),
    ],
)
def test_order_is_turned_round_and_back(text, swapped):
    assert swap_order(text) == swapped
    assert swap_order(swapped) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a dog barks",
        "a dog and a cat",
        "a dog barks while a cat meows",
        "a dog barks, then a dog barks",  # nobody could tell
        "a dog barks, then a cat, then a dog barks",
        "a before b after c",
        "a before b, then c",
        "a dog barks after a while",
        "one after another they leave",
        "a car stops shortly after",
        "a lengthening of vowels",
        "the afternoon",
    ],
)
def test_where_no_rule_is_safe_nothing_is_made(text):
    assert swap_order(text) is None


@given(st.permutations(EVENTS), st.sampled_from(SEQUENCE), st.booleans())
def test_a_sentence_of_every_connective_swaps_into_a_sentence_of_the_same_table(events, template, large):
    """Swapped by rule it says what exchanging the events says: the second one came first."""
    first, second = (e.capitalize() if large and e[1].islower() else e for e in events[:2])
    swapped = swap_order(connect(template, first, second))
    true_of_swapped = {connect(t, second, first).casefold() for t in SEQUENCE}
    assert swapped is not None and swapped.casefold() in true_of_swapped
    back = swap_order(swapped)
    # "TV plays, then a dog barks" does not show whether a capital begins the sentence.
    assert back is not None and back.casefold() == connect(template, first, second).casefold()
    assert back == connect(template, first, second) or "TV" in swapped or "I sing" in swapped


@pytest.mark.parametrize("template", [*SEQUENCE, *OVERLAP, *BACKGROUND, *LOUDER])
def test_templates_name_both_once_and_turn_round_and_back(template):
    assert template.count("{A}") == template.count("{B}") == 1
    assert turned(template) != template and turned(turned(template)) == template
    assert connect(turned(template), "x y", "u v") == connect(template, "u v", "x y")


@pytest.mark.parametrize("table", [SEQUENCE, BACKGROUND, LOUDER])
def test_each_table_names_first_now_the_one_and_now_the_other(table):
    first_named = {template.index("{A}") < template.index("{B}") for template in table}
    assert first_named == {True, False}


@pytest.mark.parametrize(
    ("first", "second", "made"),
    [
        ("A dog barks.", "Rain falls!", "A dog barks, then rain falls."),
        ("a dog", "Rain", "A dog, then rain"),
        ("A DOG BARKS", "TV", "A dog barks, then TV"),
        ("TV plays", "I sing", "TV plays, then I sing"),
        ("the {B} key", "the {A} key", "the {B} key, then the {A} key"),
    ],
)
def test_capitals_and_stops_of_two_captions(first, second, made):
    assert connect("{A}, then {B}", first, second) == made
