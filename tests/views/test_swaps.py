"""Wrong captions: what is turned round, what is denied, and that none of it is true."""

from __future__ import annotations

import pytest

from clapkit.data.clip import Clip, Event
from clapkit.errors import SpecError
from clapkit.views.swaps import OPPOSITES, Negate, SwapAttribute, SwapOrder, attributes_swapped, denial, with_wrong

CLIP = Clip("c", "c.wav", captions=("A dog barks, then rain falls.", "a dog"), label="dog", tags=("animal",))


def test_each_caption_that_tells_an_order_gives_its_swap(rng):
    made = SwapOrder().apply(CLIP, SwapOrder().draw(rng, CLIP, ()), {})
    assert made.wrong == ("Rain falls, then a dog barks.",) and made.captions == CLIP.captions
    shares = [len(SwapOrder(p=0.3).draw(rng, CLIP, ())["wrong"]) for _ in range(500)]
    assert sum(shares) / 500 == pytest.approx(0.3, abs=0.07)


@pytest.mark.parametrize(
    ("caption", "made"),
    [
        ("a loud dog", ["a quiet dog"]),
        ("Loud dogs bark QUICKLY", ["Quiet dogs bark QUICKLY", "Loud dogs bark SLOWLY"]),
        ("a loud dog and a quiet cat", ["a quiet dog and a loud cat"]),
        ("a high-pitched bell", ["a low-pitched bell"]),
        ("a bell far away", ["a bell nearby"]),
        ("a cloud, aloud", []),
        ("", []),
    ],
)
def test_attributes_are_turned_round_one_by_one_or_exchanged(caption, made):
    assert attributes_swapped(caption, OPPOSITES) == made
    for text in made:  # turned round again, it is there
        assert caption in attributes_swapped(text, OPPOSITES)


def test_as_many_as_asked_are_drawn(rng):
    clip = CLIP.with_(captions=("a loud fast high bell",))
    drawn = {tuple(SwapAttribute(per_clip=2).draw(rng, clip, ())["wrong"]) for _ in range(100)}
    assert {len(d) for d in drawn} == {2} and len({t for d in drawn for t in d}) == 3
    assert len(SwapAttribute(per_clip=9).draw(rng, clip, ())["wrong"]) == 3
    assert SwapAttribute(pairs=()).draw(rng, clip, ()) == {"wrong": []}


@pytest.mark.parametrize(
    ("caption", "denied"),
    [
        ("A dog barks", "No dog barks"),
        ("the wind blows", "no wind blows"),
        ("some people talk", "no people talk"),
        ("dogs bark", None),
        ("a few dogs bark", None),
        ("a", None),
        ("another dog", None),
    ],
)
def test_an_article_becomes_no(caption, denied):
    assert denial(caption) == denied


def test_what_is_there_is_denied_wrongly_and_what_is_missing_rightly(rng):
    clip = CLIP.with_(events=(Event("siren", 0, 1),))
    view = Negate(absent=("rain", "raining", "sirens", "cat", "Dog"), per_clip=20)
    made = view.apply(clip, view.draw(rng, clip, ()), {})
    new = set(made.captions) - set(clip.captions)
    assert new and all("cat" in text and ("without" in text or "but no" in text) for text in new)
    assert "A dog barks, then rain falls, without cat." in new
    assert "No dog barks, then rain falls." in made.wrong and "no animal can be heard" in made.wrong
    assert len(made.wrong) == 2 + 2 * 3, "two captions, and label and tag in three templates"
    assert Negate().draw(rng, clip, ())["captions"] == []
    assert len(Negate(per_clip=1).draw(rng, clip, ())["wrong"]) == 1


def test_nothing_said_nothing_denied(rng):
    bare = Clip("c", "c.wav")
    for view in (SwapOrder(), SwapAttribute(), Negate(absent=("rain",))):
        assert view.apply(bare, view.draw(rng, bare, ()), {}) == bare


def test_a_true_caption_is_never_wrong_too():
    assert with_wrong(CLIP, ("A DOG", "a cat", "a cat")).wrong == ("a cat",)
    both = CLIP.with_(captions=("a then b", "B THEN A"))
    assert SwapOrder().apply(both, {"wrong": ["b then a"]}, {}).wrong == ()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: SwapOrder(p=2), "p is a probability between 0 and 1, not 2"),
        (lambda: SwapAttribute(per_clip=0), "per_clip is a number of sentences, at least 1, not 0"),
        (lambda: SwapAttribute(pairs=(("a", "A"),)), r"pairs: a row holds two different words, not \('a', 'A'\)"),
        (lambda: SwapAttribute(pairs=(("a", "b"), ("B", "c"))), "pairs: 'B' stands in two rows"),
        (lambda: Negate(templates=("no",)), "'no' has no place for the label"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(SpecError, match=message):
        wrong()
