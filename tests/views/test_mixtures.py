"""Two clips put together: shares, loudness, and what is said about the result."""

from __future__ import annotations

import numpy as np
import pytest

from clapkit.data.clip import Clip, Event
from clapkit.errors import SpecError
from clapkit.views.audio import rms
from clapkit.views.mixtures import MixClips, join_captions, mix


def noise(seed: int, *, level: float = 0.1, samples: int = 50000) -> np.ndarray:
    return level * np.random.default_rng(seed).standard_normal(samples).astype(np.float32)


DOG = Clip("d", noise(1), captions=("A dog barks.",), label="dog", tags=("animal",), events=(Event("dog", 0, 1),))
OWL = Clip("o", noise(2, level=0.01), captions=("An owl calls",), label="owl", events=(Event("owl", 1, 2),))
BY_ID = {"d": DOG, "o": OWL}


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_shares_are_what_is_heard_and_loudness_stays(share):
    first, second = noise(1), noise(2, level=0.003)
    mixed = mix(first, second, share)
    assert rms(mixed) == pytest.approx(rms(first), rel=0.01)
    # Uncorrelated sounds: what each contributes can be measured by projecting on it.
    parts = [abs(mixed @ x) / (x @ x) * rms(x) for x in (first, second)]
    assert parts[0] / sum(parts) == pytest.approx(share, abs=0.01)


def test_the_shorter_sound_ends_earlier():
    first, second = np.ones(4, np.float32), np.ones(6, np.float32)
    both, one = 1.0 / np.hypot(0.5, 0.5), 0.5 / np.hypot(0.5, 0.5)
    np.testing.assert_allclose(mix(first, second, 0.5), [both] * 4 + [one] * 2, rtol=1e-6)


def test_silence_is_not_blown_up():
    """Equal loudness would ask for a gain of 100 dB."""
    hiss = noise(3, level=1e-6)
    assert np.abs(mix(noise(1), hiss, 0.0) - hiss).max() < 1e-9
    assert rms(mix(hiss, noise(2), 0.5)) < 0.1


def test_both_keeps_the_words_and_says_the_shares():
    mixed = MixClips().apply(DOG, {"partner": "o", "share": 0.25}, BY_ID)
    assert mixed.sources == (("d", 0.25), ("o", 0.75))
    assert mixed.captions == DOG.captions and mixed.label == "dog"
    assert mixed.tags == ("animal",) and [e.label for e in mixed.events] == ["dog", "owl"]
    assert mixed.provenance == ("mixed with o at 0.250",)


def test_a_mixture_of_mixtures_is_one_of_their_sources():
    once = MixClips().apply(DOG, {"partner": "o", "share": 0.5}, BY_ID)
    twice = MixClips().apply(once, {"partner": "o", "share": 0.5}, BY_ID)
    assert twice.sources == (("d", 0.25), ("o", 0.25), ("o", 0.5))


@pytest.mark.parametrize(
    ("share", "caption"), [(0.7, "A dog barks and an owl calls"), (0.3, "An owl calls and a dog barks.")]
)
def test_joined_names_the_louder_first(share, caption):
    mixed = MixClips(text="joined").apply(DOG, {"partner": "o", "share": share}, BY_ID)
    assert mixed.captions == (caption,) and mixed.label is None and mixed.sources == ()


def test_joined_prompts_speak_of_both_halves():
    """Clips known by a label only: a prompt of one of them would be false for the mixture."""
    dog = DOG.with_(captions=(), prompts=("dog", "the sound of dog"))
    owl = OWL.with_(captions=(), prompts=("owl",))
    mixed = MixClips(text="joined").apply(dog, {"partner": "o", "share": 0.6}, {"o": owl})
    assert mixed.prompts == ("dog and owl", "the sound of dog and owl") and mixed.captions == ()
    with_caption = MixClips(text="joined").apply(DOG, {"partner": "o", "share": 0.6}, {"o": owl})
    assert with_caption.prompts == ("A dog barks and owl",) and with_caption.captions == ()


def test_what_is_wrong_about_one_half_is_wrong_about_both():
    owl = OWL.with_(wrong=("no owl",))
    mixed = MixClips(text="joined").apply(DOG, {"partner": "o", "share": 0.6}, {"o": owl})
    assert mixed.wrong == ("A dog barks and no owl",)
    assert MixClips().apply(DOG.with_(wrong=("no dog",)), {"partner": "o", "share": 0.6}, {"o": owl}).wrong == (
        "no dog",
    )


@pytest.mark.parametrize(
    ("first", "second", "joined"),
    [
        ("A dog barks.", "Rain falls.", "A dog barks and rain falls."),
        ("a dog barks", "A DOG BARKS!", "a dog barks"),
        ("a drum", "I can hear TV", "a drum and I can hear TV"),
        ("a set", "TV plays", "a set and TV plays"),
        ("A drum", "A bell", "A drum and a bell"),
    ],
)
def test_join_captions(first, second, joined):
    assert join_captions(first, second) == joined


def test_partners_come_from_the_pool_and_never_are_the_clip_itself(rng):
    drawn = [MixClips(p=1.0).draw(rng, DOG, [DOG, OWL]) for _ in range(200)]
    assert {p.get("partner") for p in drawn} == {None, "o"}
    assert MixClips(p=1.0).draw(rng, DOG, [DOG]) == {}
    assert {len(MixClips(p=0.0).draw(rng, DOG, [DOG, OWL])) for _ in range(20)} == {0}


def test_joined_draws_shares_at_which_both_are_heard(rng):
    shares = [p["share"] for _ in range(300) if (p := MixClips(p=1.0, text="joined").draw(rng, DOG, [OWL, OWL]))]
    assert 0.3 <= min(shares) < 0.33 and 0.67 < max(shares) <= 0.7


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(SpecError, match="p is a probability between 0 and 1, not -1"):
        MixClips(p=-1)
    with pytest.raises(SpecError, match="text is 'both' or 'joined', not 'none'"):
        MixClips(text="none")
