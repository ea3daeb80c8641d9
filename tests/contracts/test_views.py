"""The contract of every view: all chance in `draw`, none in `apply`, nothing of the caller's changed."""

from __future__ import annotations

import json
import random
import warnings
from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest
import torch

from clapkit.data.clip import Clip
from clapkit.objectives.base import NEEDS
from clapkit.spec import from_json, to_json
from clapkit.views.audio import Gain, NoiseAtSNR, TimeShift
from clapkit.views.base import View
from clapkit.views.captions import KeywordsToCaption, LabelPrompts, TagsToSentence
from clapkit.views.channels import Band, EightBits, Polarity, Room, Speed
from clapkit.views.grammar import FieldDropout, Grammar
from clapkit.views.layers import Background, LoudnessOrder, Overlap
from clapkit.views.measured import MeasuredPhrases, Quantity, Values
from clapkit.views.mixtures import MixClips
from clapkit.views.paraphrase import Paraphrase
from clapkit.views.sequence import Concatenate, OrderContrast, Repeat
from clapkit.views.spectrogram import PatchMask, SpecAugment, Stretch
from clapkit.views.swaps import Negate, SwapAttribute, SwapOrder

VIEWS = [
    TimeShift(),
    Gain(),
    NoiseAtSNR(p=1.0),
    MixClips(p=1.0),
    MixClips(p=1.0, text="joined"),
    LabelPrompts(),
    LabelPrompts(per_clip=2),
    SpecAugment(),
    Stretch(p=1.0),
    PatchMask(),
    Room(p=1.0),
    Speed(p=1.0),
    Band(p=1.0),
    EightBits(p=1.0),
    Polarity(),
    Concatenate(p=1.0),
    Concatenate(p=1.0, longest_s=0.12, gap_s=(-0.5, 0.05)),
    OrderContrast(p=1.0),
    OrderContrast(p=1.0, longest_s=0.1, gap_s=(0.0, 0.01), kinds=("overlay",)),
    Repeat(p=1.0),
    Overlap(p=1.0),
    LoudnessOrder(p=1.0),
    Background(p=1.0, longest_s=0.05),
    TagsToSentence(),
    KeywordsToCaption(per_clip=1),
    Grammar(("(a|one) {label}[ in {place}]", "{caption}, {tags}"), columns=("place",)),
    FieldDropout(),
    SwapOrder(p=0.5),
    SwapAttribute(per_clip=1),
    Negate(absent=("rain", "engine")),
    Paraphrase(),
    Values(("pitch_hz", "dB"), units=(100.0, 1.0)),
    MeasuredPhrases((Quantity("pitch_hz", 100.0, 200.0, ("low",), ("high",)), Quantity("dB", 1, 2, ("b",), ("a",)))),
]
# What a view can add to a batch: a word that no objective can name would be made and read by nobody.
FIELDS = set(NEEDS)


def short(view: View) -> str:
    """A test's name: tables of words are left out."""
    return repr(view)[:60]


every_view = pytest.mark.parametrize("view", VIEWS, ids=short)


def clip(name: str, samples: int = 800, *, level: float = 0.1) -> Clip:
    sound = level * np.random.default_rng(len(name) + samples).standard_normal(samples).astype(np.float32)
    sound.setflags(write=False)
    return Clip(
        name,
        sound,
        captions=(said(name),),
        prompts=(f"the sound of {name}",),
        label=name,
        tags=("animal", name),
        meta={"pitch_hz": "90", "dB": 3.0},
        rate_hz=8000,
    )


def said(name: str) -> str:
    return f"a loud {name} calls twice, fast, and then a quiet bell rings"


POOL = [clip("dog"), clip("owl", 500), clip("wren")]
BY_ID = {c.id: c for c in POOL}


def subject(view: View, given: Clip):
    """What the view's `apply` is given: the clip, or its mel frames."""
    if view.domain != "mel":
        return given
    frames = np.random.default_rng(5).standard_normal((max(1, len(given.audio) // 10), 16)).astype(np.float32)
    frames.setflags(write=False)
    return frames


def drawn(view: View, given: Clip, seed: int = 1):
    return view.draw(np.random.default_rng(seed), given, POOL)


def assert_same(a, b) -> None:
    if isinstance(a, Clip):
        for one, other in zip((a.audio, *a.wrong_sounds), (b.audio, *b.wrong_sounds), strict=True):
            np.testing.assert_array_equal(one, other)
        a, b = (c.with_(audio=b"", wrong_sounds=()) for c in (a, b))
        assert a == b
    else:
        np.testing.assert_array_equal(a, b)


@every_view
def test_declares_what_it_is(view):
    assert isinstance(view, View)
    assert isinstance(view.adds, tuple) and set(view.adds) <= FIELDS
    assert view.domain in ("audio", "mel", "text")
    assert not {"adds", "domain"} & {f.name for f in fields(view)}, "they belong to the class"
    assert from_json(json.loads(json.dumps(to_json(view)))) == view
    with pytest.raises(FrozenInstanceError):
        setattr(view, fields(view)[0].name, 0)


@every_view
def test_draw_is_a_function_of_the_generator(view):
    assert drawn(view, POOL[0]) == drawn(view, POOL[0])
    several = {json.dumps(drawn(view, POOL[0], seed)) for seed in range(30)}
    assert len(several) > 1 or view == LabelPrompts() or isinstance(view, Values), "these have nothing to draw"


@every_view
def test_apply_has_no_chance_and_can_be_replayed_from_a_log(view):
    for seed in range(5):
        params = drawn(view, POOL[0], seed)
        given = subject(view, POOL[0])
        once = view.apply(given, params, BY_ID)
        assert_same(once, view.apply(given, params, BY_ID))
        assert_same(once, view.apply(given, json.loads(json.dumps(params)), BY_ID))


@every_view
def test_the_clip_that_was_given_is_unchanged(view):
    """Its array is write-protected, so that changing it would raise; its fields are compared."""
    given = subject(view, POOL[0])
    kept = np.array(given.audio if isinstance(given, Clip) else given)
    changed = [view.apply(given, drawn(view, POOL[0], seed), BY_ID) for seed in range(5)]
    np.testing.assert_array_equal(kept, given.audio if isinstance(given, Clip) else given)
    assert POOL[0].captions == (said("dog"),) and POOL[0].prompts == ("the sound of dog",) and not POOL[0].sources
    assert POOL[0].wrong == () and POOL[0].events == () and POOL[0].tags == ("animal", "dog")
    assert all((c.audio if isinstance(c, Clip) else c).dtype == np.float32 for c in changed)


@every_view
def test_global_generators_are_left_alone(view):
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    view.apply(subject(view, POOL[0]), drawn(view, POOL[0]), BY_ID)
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


@every_view
@pytest.mark.parametrize(("samples", "level"), [(0, 0.1), (1, 0.1), (800, 0.0)], ids=["empty", "1 sample", "silent"])
def test_odd_clips_come_through_without_a_warning(view, samples, level):
    odd = clip("dog", samples, level=level)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = view.apply(subject(view, odd), drawn(view, odd), {**BY_ID, "dog": odd})
    sound = out.audio if isinstance(out, Clip) else out
    assert np.isfinite(sound).all() and sound.dtype == np.float32


@pytest.mark.parametrize("view", [v for v in VIEWS if "text_private" in v.adds], ids=short)
def test_what_is_wrong_is_never_also_said(view):
    """Views that fill `wrong` do so, in the clip's own words turned round, and never with one of its true captions."""
    made = [view.apply(POOL[0], drawn(view, POOL[0], seed), BY_ID) for seed in range(30)]
    assert any(c.wrong for c in made)
    for c in made:
        assert not {w.casefold() for w in c.wrong} & {t.casefold() for t in (*c.captions, *c.prompts)}
        assert len(set(c.wrong)) == len(c.wrong) and all(c.wrong)


@pytest.mark.parametrize("view", [v for v in VIEWS if v.domain == "mel"], ids=repr)
@pytest.mark.parametrize("frames", [0, 1, 2])
def test_mel_views_keep_the_shape(view, frames):
    mel_TF = np.ones((frames, 16), np.float32)
    for seed in range(5):
        assert view.apply(mel_TF, drawn(view, POOL[0], seed), {}).shape == (frames, 16)
