"""Which texts describe which clip, against a reference that goes cell by cell."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clapkit.data.clip import Clip
from clapkit.data.texts import TextBank, TextChoice, draw_text, soft_target
from clapkit.errors import SpecError

DOG = Clip("d", "d.wav", captions=("a dog", "barking"), prompts=("sound of dog",), label="dog")
OWL = Clip("o", "o.wav", captions=("an owl",), label="owl")
DOG2 = Clip("d2", "d2.wav", captions=("a dog",), prompts=("sound of dog",), label="dog")
BY_ID = {c.id: c for c in (DOG, OWL, DOG2)}
COLUMNS = ["a dog", "an owl", "sound of dog", "rain"]


def by_cells(clips, columns, by_id) -> np.ndarray:
    """One cell at a time: each source shares its weight among its texts that stand in the batch."""
    target = np.zeros((len(clips), len(columns)))
    for b, clip in enumerate(clips):
        for name, weight in clip.sources or ((clip.id, 1.0),):
            source = by_id[name] if clip.sources else clip
            present = {t for t in (*source.captions, *source.prompts) if t in columns}
            for u, text in enumerate(columns):
                if text in present:
                    target[b, u] += weight / len(present)
        if target[b].sum():
            target[b] /= target[b].sum()
    return target


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_equals_the_reference(data):
    words = st.lists(st.sampled_from("abcdef"), max_size=4).map(tuple)
    plain = [Clip(str(i), "x", captions=data.draw(words), prompts=data.draw(words)) for i in range(4)]
    # A share below what float32 holds is no share; what stands beside it decides alone.
    share = data.draw(st.sampled_from([0.0, 1.0]) | st.floats(1e-6, 1 - 1e-6))
    mixed = plain[0].with_(sources=(("0", share), ("2", 1 - share)))
    columns = data.draw(st.lists(st.sampled_from("abcdefgh"), unique=True, min_size=1))
    by_id = {c.id: c for c in plain}
    clips = [*plain, mixed]
    found = soft_target(clips, columns, [by_id] * len(clips))
    np.testing.assert_allclose(found, by_cells(clips, columns, by_id), atol=1e-6)
    described = found.sum(1) > 0
    np.testing.assert_allclose(found[described].sum(1), 1.0, rtol=1e-6)


def test_equal_texts_belong_to_all_their_clips():
    """The bank's "sound of dog" was drawn for nobody, and still counts for both dogs, never against them."""
    target = soft_target([DOG, OWL, DOG2], COLUMNS, [BY_ID] * 3)
    np.testing.assert_allclose(target, [[0.5, 0, 0.5, 0], [0, 1, 0, 0], [0.5, 0, 0.5, 0]])


def test_a_mixture_is_described_by_both_in_their_shares():
    mixed = DOG.with_(sources=(("d", 0.25), ("o", 0.75)))
    np.testing.assert_allclose(soft_target([mixed], COLUMNS, [BY_ID] * 3), [[0.125, 0.75, 0.125, 0]])


def test_a_source_whose_text_is_absent_leaves_its_share_to_the_other():
    mixed = DOG.with_(sources=(("d", 0.25), ("o", 0.75)))
    np.testing.assert_allclose(soft_target([mixed], ["a dog", "rain"], [BY_ID]), [[1.0, 0.0]])


def test_texts_are_drawn_from_captions_and_prompts_in_their_share(rng):
    drawn = Counter(draw_text(rng, DOG, TextChoice(caption_share=0.8)) for _ in range(2000))
    assert drawn["sound of dog"] / 2000 == pytest.approx(0.2, abs=0.03)
    assert drawn["a dog"] / drawn["barking"] == pytest.approx(1.0, abs=0.2)
    assert {draw_text(rng, OWL, TextChoice(caption_share=0.0)) for _ in range(20)} == {"an owl"}, "it has no prompt"
    assert draw_text(rng, Clip("x", "x"), TextChoice()) is None


def test_the_bank_gives_one_text_of_each_label(rng):
    wren = Clip("w", "w.wav", captions=("a wren",))
    bank = TextBank([DOG, DOG2, OWL, wren])
    for _ in range(20):
        assert sorted(bank.draw(rng, 99)) == ["a wren", "an owl", "sound of dog"]
    assert len(bank.draw(rng, 2)) == 2 and bank.draw(rng, 0) == [] and TextBank([]).draw(rng, 5) == []
    assert {text for _ in range(100) for text in bank.draw(rng, 1)} == {"a wren", "an owl", "sound of dog"}


def test_choices_that_make_no_sense_are_refused():
    with pytest.raises(SpecError, match=r"caption_share is a share between 0 and 1, not 1\.5"):
        TextChoice(caption_share=1.5)
    with pytest.raises(SpecError, match="bank is a number of texts, not -1"):
        TextChoice(bank=-1)
