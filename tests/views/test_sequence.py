"""One after another, and several times: what is heard where, and what is said of it."""

from __future__ import annotations

import numpy as np
import pytest

from clapkit.data.clip import Clip, Event
from clapkit.errors import SpecError
from clapkit.views.audio import rms
from clapkit.views.connectives import OVERLAP, SEQUENCE, connect
from clapkit.views.partners import level, spans
from clapkit.views.sequence import TIMES, Concatenate, OrderContrast, Repeat

RATE_HZ = 8000


def burst(seed: int, *, before_s: float, sound_s: float, after_s: float, height: float = 0.1) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(round(sound_s * RATE_HZ)).astype(np.float32)
    silences = [np.zeros(round(s * RATE_HZ), np.float32) for s in (before_s, after_s)]
    return np.concatenate([silences[0], height * noise, silences[1]])


DOG = Clip(
    "d",
    burst(1, before_s=0.5, sound_s=1.0, after_s=1.5),
    captions=("A dog barks.", "barking"),
    label="dog",
    tags=("animal",),
    wrong=("no dog",),
    rate_hz=RATE_HZ,
)
BELL = Clip(
    "b", burst(2, before_s=1.0, sound_s=0.6, after_s=0.2, height=0.01), prompts=("a bell rings",), rate_hz=RATE_HZ
)
BY_ID = {"d": DOG, "b": BELL}
PARAMS = {"partner": "b", "clip_first": True, "gap_s": 0.3, "difference_db": 0.0, "connective": 0}


def where(whole: np.ndarray, part: np.ndarray) -> int:
    """The lag at which a part fits best: cross-correlation at every lag."""
    return int(np.argmax(np.correlate(whole, part, mode="valid")))


def joined(clip: Clip = DOG, *, view: Concatenate | None = None, **changes) -> Clip:
    return (view or Concatenate()).apply(clip, {**PARAMS, **changes}, BY_ID)


@pytest.mark.parametrize("gap_s", [0.0, 0.3, 1.0])
def test_the_silence_around_is_cut_and_the_gap_is_as_drawn(gap_s):
    made = joined(gap_s=gap_s)
    assert len(made.audio) == pytest.approx((1.0 + gap_s + 0.6) * RATE_HZ, abs=0.02 * RATE_HZ)
    silence = made.audio[round(1.02 * RATE_HZ) : round((0.98 + gap_s) * RATE_HZ)]
    assert not silence.any()


@pytest.mark.parametrize("clip_first", [True, False])
@pytest.mark.parametrize("gap_s", [-0.1, 0.0, 0.4])
def test_events_lie_where_the_sound_is(clip_first, gap_s):
    made = joined(clip_first=clip_first, gap_s=gap_s)
    assert [e.label for e in made.events] == (["dog", "a bell rings"] if clip_first else ["a bell rings", "dog"])
    for event in made.events:
        source = DOG if event.label == "dog" else BELL
        first, end = spans(source.audio, RATE_HZ)[0]
        lag = where(made.audio, source.audio[first:end])
        assert event.onset_s == pytest.approx(lag / RATE_HZ, abs=1e-9)
        assert event.offset_s - event.onset_s == pytest.approx((end - first) / RATE_HZ, abs=1e-9)


def test_events_that_were_known_move_along_and_those_cut_off_are_left_out():
    dog = DOG.with_(events=(Event("bark", 0.6, 0.9), Event("click", 2.5, 2.6), Event("hum", 0.0, 3.0)))
    made = joined(dog, clip_first=False, gap_s=0.2)
    start_s = made.events[-1].onset_s if made.events[-1].label == "hum" else made.events[-2].onset_s
    moved = {e.label: (e.onset_s, e.offset_s) for e in made.events}
    assert set(moved) == {"a bell rings", "bark", "hum"}
    assert moved["hum"] == pytest.approx((start_s, start_s + 1.0), abs=0.011), "cut to what is kept of the clip"
    assert moved["bark"] == pytest.approx((start_s + 0.1, start_s + 0.4), abs=0.011)


@pytest.mark.parametrize("difference_db", [-6.0, 0.0, 4.0])
def test_the_partner_is_as_far_from_the_clip_as_was_drawn(difference_db):
    made = joined(difference_db=difference_db, gap_s=0.3)
    dog, bell = ((round(e.onset_s * RATE_HZ), round(e.offset_s * RATE_HZ)) for e in made.events)
    edge = round(0.005 * RATE_HZ)  # the ramps at the cut
    inner = [made.audio[a + edge : b - edge] for a, b in (dog, bell)]
    source = BELL.audio[slice(*spans(BELL.audio, RATE_HZ)[0])]
    gain = np.dot(inner[1], source[edge:-edge]) / np.dot(source[edge:-edge], source[edge:-edge])
    measured_db = 20 * np.log10(gain * level(BELL.audio, RATE_HZ) / level(DOG.audio, RATE_HZ))
    assert measured_db == pytest.approx(difference_db, abs=0.01)
    np.testing.assert_array_equal(inner[0], DOG.audio[slice(*spans(DOG.audio, RATE_HZ)[0])][edge:-edge])


def test_a_crossfade_keeps_the_power():
    dog, bell = (c.with_(audio=burst(s, before_s=0, sound_s=2, after_s=0)) for s, c in ((3, DOG), (4, BELL)))
    made = Concatenate().apply(dog, {**PARAMS, "gap_s": -1.0}, {"b": bell})
    assert len(made.audio) == 3 * RATE_HZ
    fade = made.audio[RATE_HZ : 2 * RATE_HZ]
    assert 20 * np.log10(rms(fade) / rms(dog.audio)) == pytest.approx(0.0, abs=0.2)


@pytest.mark.parametrize("gap_s", [-0.5, -0.1, 0.0, 0.5])
@pytest.mark.parametrize("longest_s", [1.1, 1.5, 2.0])
def test_the_whole_is_bounded_and_both_are_in_it(longest_s, gap_s):
    made = joined(view=Concatenate(longest_s=longest_s), gap_s=gap_s)
    assert len(made.audio) <= longest_s * RATE_HZ + 1 and made.duration_s == len(made.audio) / RATE_HZ
    assert len(made.events) == 2 and all(e.offset_s - e.onset_s > 0.25 for e in made.events)
    assert all(0 <= e.onset_s < e.offset_s <= made.duration_s for e in made.events)


def test_of_a_clip_that_is_too_long_the_strongest_stretch_is_kept():
    """4 s of hiss and 1 s of barking, 1.4 s of which fit: all of the barking is among them, at their end."""
    bark = DOG.audio[4000:12000]
    sound = np.concatenate([burst(5, before_s=0, sound_s=4, after_s=0, height=0.02), bark])
    made = joined(DOG.with_(audio=sound), view=Concatenate(longest_s=2.0), gap_s=0.0)
    kept = 2 * RATE_HZ - round(0.6 * RATE_HZ)
    assert made.events[1].onset_s == kept / RATE_HZ
    np.testing.assert_array_equal(made.audio[kept - 8000 : kept - 100], bark[:-100])


@pytest.mark.parametrize("connective", range(len(SEQUENCE)))
def test_what_is_said_and_what_is_wrong(connective):
    made = joined(connective=connective)
    true, false = SEQUENCE[connective], SEQUENCE[connective].replace("A", "X").replace("B", "A").replace("X", "B")
    words = {"{A}": "a dog barks", "{B}": "a bell rings"}

    def sentence(template: str, a: str) -> str:
        return template.replace("{A}", "\0").replace("{B}", words["{B}"]).replace("\0", a)

    assert made.captions[0].casefold() == sentence(true, "a dog barks").casefold() + "."
    assert made.captions[1] == sentence(true, "barking")
    assert made.wrong[0].casefold() == sentence(false, "a dog barks").casefold() + "."
    assert sentence(true, "no dog") in made.wrong, "what was wrong about one of them still is"
    lengths = sorted(map(len, made.captions)), sorted(map(len, made.wrong[:2]))
    assert lengths[0] == lengths[1], "length gives nothing away"


def test_names_go_into_tags_and_what_was_said_of_one_alone_goes():
    made = joined()
    assert made.tags == ("animal", "dog") and made.label is None and made.prompts == () and made.sources == ()
    assert made.provenance == ("d, then b after 0.300 s",)


def test_partners_are_other_sounds_that_can_be_heard_and_told(rng):
    others = {
        "itself": DOG,
        "same label": BELL.with_(id="x", label="dog"),
        "same words": BELL.with_(id="x", captions=("a DOG barks.",)),
        "says nothing": BELL.with_(id="x", prompts=()),
        "silent": BELL.with_(id="x", audio=np.zeros(100, np.float32)),
        "a mixture in shares": BELL.with_(id="x", sources=(("a", 0.5), ("b", 0.5))),
    }
    for why, other in others.items():
        assert all(not Concatenate(p=1.0).draw(rng, DOG, [other]) for _ in range(5)), why
    assert Concatenate(p=1.0).draw(rng, DOG, [DOG, BELL])["partner"] == "b"
    assert Concatenate(p=0.0).draw(rng, DOG, [DOG, BELL]) == {}


def test_draws_fill_their_ranges(rng):
    drawn = [Concatenate(p=1.0).draw(rng, DOG, [DOG, BELL]) for _ in range(300)]
    assert {d["clip_first"] for d in drawn} == {True, False}
    assert {d["connective"] for d in drawn} == set(range(len(SEQUENCE)))
    assert -0.1 <= min(d["gap_s"] for d in drawn) < -0.08 and 0.48 < max(d["gap_s"] for d in drawn) <= 0.5


@pytest.mark.parametrize("count", [1, 2, 3])
def test_an_event_is_heard_as_often_as_the_caption_says(count):
    params = {"gaps_s": [0.3, 0.5][: count - 1], "wrong_count": 4, "phrase": 0}
    made = Repeat().apply(DOG, params, {})
    assert len(spans(made.audio, RATE_HZ)) == count == len(made.events)
    for (first, end), event in zip(spans(made.audio, RATE_HZ), made.events, strict=True):
        assert (event.onset_s, event.offset_s) == pytest.approx((first / RATE_HZ, end / RATE_HZ), abs=0.011)
    assert made.captions == (f"A dog barks {TIMES[count - 1]}.", f"barking {TIMES[count - 1]}")
    assert made.wrong == ("A dog barks four times.", "barking four times", f"no dog {TIMES[count - 1]}")


def test_counts_are_drawn_as_far_as_they_fit_and_the_wrong_one_is_another(rng):
    drawn = [Repeat(p=1.0, longest_s=5.0, most=4).draw(rng, DOG, ()) for _ in range(300)]
    counts = [1 + len(d["gaps_s"]) for d in drawn]
    assert set(counts) == {1, 2, 3}, "a fourth bark would end after 5.8 s at the widest gaps"
    assert all(d["wrong_count"] != n and 1 <= d["wrong_count"] <= 4 for d, n in zip(drawn, counts, strict=True))
    assert {d["wrong_count"] for d in drawn} == {1, 2, 3, 4}
    assert all(len(Repeat().apply(DOG, d, {}).audio) <= 5 * RATE_HZ for d in drawn[:20])


def test_what_cannot_be_counted_is_left_alone(rng):
    twice = DOG.with_(audio=np.concatenate([DOG.audio, DOG.audio]))
    endless = DOG.with_(audio=burst(1, before_s=0, sound_s=4.0, after_s=0))
    for clip in (twice, endless, DOG.with_(audio=np.zeros(10, np.float32)), DOG.with_(captions=(), label=None)):
        assert Repeat(p=1.0).draw(rng, clip, ()) == {}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Concatenate(p=2), "p is a probability between 0 and 1, not 2"),
        (lambda: Concatenate(longest_s=0), "longest_s is a length above 0 seconds, not 0"),
        (lambda: Concatenate(gap_s=(1.0, 0.0)), r"gap_s is a pair \(low, high\), not \(1.0, 0.0\)"),
        (lambda: Concatenate(gap_s=(0.0, 4.0)), r"gap_s=\(0.0, 4.0\) leaves no room for two events in longest_s=5.0"),
        (lambda: Repeat(most=9), "most=9: counts from 2 to 6"),
        (lambda: Repeat(gap_s=(-0.1, 0.1)), "cannot be counted"),
        (lambda: joined(DOG.with_(rate_hz=None)), "clip 'd' holds samples without rate_hz"),
        (lambda: joined(DOG.with_(rate_hz=16000)), "clip 'd' has 16000 Hz and its partner 'b' 8000 Hz"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong, message):
    with pytest.raises(SpecError, match=message):
        wrong()


ORDERED = {**PARAMS, "overlay_connective": 1, "saying": 0.6}


@pytest.mark.parametrize("clip_first", [True, False])
def test_what_is_wrong_about_time_is_the_reverse_and_both_at_once(clip_first):
    """Sound: the same pieces in the other order, and added up; captions: of the same pair of sayings."""
    params = {**ORDERED, "clip_first": clip_first}
    made = OrderContrast(longest_s=5.0).apply(DOG, params, BY_ID)
    first, second = ("barking", "a bell rings") if clip_first else ("a bell rings", "barking")
    assert made.captions == (connect(SEQUENCE[0], first, second),)
    assert made.wrong == (connect(SEQUENCE[0], second, first), connect(OVERLAP[1], first, second))
    reverse, together = made.wrong_sounds
    turned = OrderContrast(longest_s=5.0).apply(DOG, {**params, "clip_first": not clip_first}, BY_ID)
    np.testing.assert_array_equal(reverse, turned.audio)
    np.testing.assert_array_equal(turned.wrong_sounds[0], made.audio)
    bell, dog = (round(s * RATE_HZ) for s in (0.6, 1.0))
    assert len(together) == pytest.approx(dog, abs=0.02 * RATE_HZ)
    parts = (made.audio[:dog], made.audio[-bell:]) if clip_first else (made.audio[-dog:], made.audio[:bell])
    inner = slice(round(0.05 * RATE_HZ), round(0.5 * RATE_HZ))  # away from the ramps at the edges
    np.testing.assert_allclose(together[inner], (parts[0][inner] + parts[1][inner]), atol=1e-6)
    assert [e.label for e in made.events] == (["dog", "a bell rings"] if clip_first else ["a bell rings", "dog"])
    assert (made.label, made.values, made.prompts) == (None, (), ())


def test_kinds_stand_in_their_places_and_a_clip_left_alone_has_none():
    view = OrderContrast(kinds=("overlay",))
    made = view.apply(DOG, ORDERED, BY_ID)
    both = OrderContrast().apply(DOG, ORDERED, BY_ID)
    assert made.wrong == both.wrong[1:] and np.array_equal(made.wrong_sounds[0], both.wrong_sounds[1])
    alone = view.apply(DOG, {}, BY_ID)
    assert alone.wrong == () and alone.wrong_sounds == () and alone.captions == DOG.captions


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gap_s": (-0.1, 0.2)}, r"gap_s=\(-0.1, 0.2\): silences from 0 to half"),
        ({"gap_s": (0.0, 3.0)}, "half of longest_s=5.0"),
        ({"kinds": ("revers",)}, "no kind 'revers'; did you mean 'reverse'"),
        ({"kinds": ()}, "at least one, not ()"),
        ({"kinds": ("overlay", "overlay")}, "kinds are different ones"),
    ],
)
def test_order_contrast_refuses_what_makes_no_sense(settings, message):
    with pytest.raises(SpecError, match=message):
        OrderContrast(**settings)
