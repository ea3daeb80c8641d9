"""The language of templates: what it says, and what it refuses."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clapkit.data.clip import Clip
from clapkit.errors import SpecError
from clapkit.text.prompts import fill
from clapkit.views.grammar import FieldDropout, Grammar

DOG = Clip(
    "c",
    "c.wav",
    captions=("it barks",),
    label="dog_bark",
    tags=("animal", "outside"),
    meta={"place": "a yard", "year": 2020.0, "blank": " ", "none": None, "nan": float("nan"), "who": ["Ann", "Bo", ""]},
)
COLUMNS = ("place", "year", "blank", "none", "nan", "who", "missing")


def said(template: str, rng, *, times: int = 60, optional: float = 0.5, clip: Clip = DOG) -> set[str]:
    """Everything that a template says of a clip."""
    view = Grammar((template,), columns=COLUMNS, per_clip=times, optional=optional)
    return set(view.draw(rng, clip, ())["sentences"])


@pytest.mark.parametrize(
    ("template", "sentences"),
    [
        ("the sound of {label}", {"the sound of dog bark"}),
        ("{tag} sounds", {"animal sounds", "outside sounds"}),
        ("{tags}", {"animal and outside", "outside and animal"}),
        ("{caption}!", {"it barks!"}),
        ("(a|one|) {label}", {"a dog bark", "one dog bark", "dog bark"}),
        ("{label}[ in {place}]", {"dog bark", "dog bark in a yard"}),
        ("{label}[ in {missing}]", {"dog bark"}),
        ("{label}[ in {blank}], {year}", {"dog bark, 2020"}),
        ("({missing}|{none}|{nan}|{label})", {"dog bark"}),
        ("{who} with {label}", {"Ann and Bo with dog bark"}),
        ("{label}[ (in|near) {place}[ in {year}]]", None),
        (r"\{{label}\} \(\[1\|2\]\)", {"{dog bark} ([1|2])"}),
        ("{missing}", set()),
        ("{label} in {none}", set()),
    ],
)
def test_everything_that_a_template_says(template, sentences, rng):
    expected = sentences
    if expected is None:
        places = {f"dog bark {w} a yard{y}" for w in ("in", "near") for y in ("", " in 2020")}
        expected = {"dog bark", *places}
    assert said(template, rng) == expected


@pytest.mark.parametrize(("optional", "sentences"), [(0.0, {"x"}), (1.0, {"x y"})])
def test_optional_parts_are_said_as_often_as_asked(optional, sentences, rng):
    assert said("x[ y]", rng, optional=optional) == sentences


def test_braces_in_a_value_are_only_characters(rng):
    assert said("{label}!", rng, clip=DOG.with_(label="{tag} [x] (a|b) {0.real}")) == {"{tag} [x] (a|b) {0.real}!"}


@settings(max_examples=1500, deadline=None)
@given(st.lists(st.sampled_from([*"ab[]()|\\ {}", "{label}"]), max_size=12).map("".join))
def test_any_text_is_either_a_template_or_refused_by_name(text):
    """Against the parser of a slow reader: a template is valid if it can be eaten away from the inside."""
    eaten = re.sub(r"\\(.)", lambda escaped: " " if escaped[1] == " " else "t", text).replace("{label}", "s")
    valid = not eaten.endswith("\\")
    while True:
        smaller = re.sub(r"\[[^\[\](){}|]*\]|\([^\[\](){}]*\)", "m", eaten)
        if smaller == eaten:
            break
        eaten = smaller
    valid = valid and not set("{}[]()|") & set(eaten) and bool(eaten.strip())
    if valid:
        Grammar((text,))
    else:
        with pytest.raises(SpecError, match="template"):
            Grammar((text,))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("a {lable}", r"'a \{lable\}', character 3: there is no slot 'lable'; did you mean 'label'"),
        ("a {place}", "there is no slot 'place'"),
        ("a {}", "there is no slot ''"),
        ("a {label", r"character 3: '\}' is missing"),
        ("a [b", r"'\]' is missing"),
        ("a (b|c", r"'\)' is missing"),
        ("a b] c", r"character 4: '\]' closes or parts nothing; write \\\]"),
        ("a | b", r"'\|' closes or parts nothing"),
        ("[a)]", r"character 3: '\)' closes"),
        ("  ", "says nothing"),
        ("a\\", r"character 2: '\\' stands before nothing"),
        ("{label.__class__}", "there is no slot 'label.__class__'"),
        ("{label!r:>10}", "there is no slot 'label!r:>10'"),
    ],
)
def test_what_is_no_template_is_refused_with_its_place(template, message):
    with pytest.raises(SpecError, match=message):
        Grammar((template,))


def test_sentences_go_where_they_are_told_and_once(rng):
    captions = Grammar(("hear {label}", "{label}"), per_clip=20)
    made = captions.apply(DOG, captions.draw(rng, DOG, ()), {})
    assert sorted(made.captions[1:]) == ["dog bark", "hear dog bark"] and made.captions[0] == "it barks"
    prompts = Grammar(("hear {label}",), into="prompts")
    assert prompts.apply(DOG, prompts.draw(rng, DOG, ()), {}).prompts == (fill("hear {}", "dog_bark"),)


def test_fields_are_kept_shuffled_and_never_all_lost(rng):
    view = FieldDropout(fields=("label", "tags", "place", "missing"), keep=0.5, per_clip=2000, separator=" / ")
    made = view.draw(rng, DOG, ())["sentences"]
    parts = [tuple(text.split(" / ")) for text in made]
    known = {"dog bark", "a yard", "animal and outside", "outside and animal"}
    assert all(p and set(p) <= known and len(set(p)) == len(p) for p in parts)
    # 3 fields: 3 alone, 6 ordered pairs, 6 orders of all; tags in 2 orders.
    assert {tuple("tags" if "animal" in x else x for x in p) for p in parts} == {
        p for n in (1, 2, 3) for p in itertools.permutations(("dog bark", "a yard", "tags"), n)
    }


@pytest.mark.parametrize(("keep", "lengths"), [(0.0, {1}), (1.0, {3})])
def test_keeping_none_keeps_one_and_keeping_all_keeps_all(keep, lengths, rng):
    view = FieldDropout(fields=("label", "place", "year"), keep=keep, separator="/")
    assert {text.count("/") + 1 for text in view.draw(rng, DOG, ())["sentences"]} == lengths
    assert view.draw(rng, Clip("x", "x.wav"), ()) == {"sentences": []}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Grammar(()), "templates is empty"),
        (lambda: Grammar(("a",), per_clip=0), "per_clip is a number of sentences, at least 1, not 0"),
        (lambda: Grammar(("a",), optional=1.5), "optional is a share between 0 and 1, not 1.5"),
        (lambda: Grammar(("a",), into="wrong"), "into is 'captions' or 'prompts', not 'wrong'"),
        (lambda: FieldDropout(fields=()), "fields is empty"),
        (lambda: FieldDropout(keep=-1), "not -1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(SpecError, match=message):
        wrong()
