"""Order accuracy: against a loop, at its limits, and its controls."""

from __future__ import annotations

import numpy as np
import pytest

from clapkit.errors import DataError
from clapkit.evaluation.order import order_accuracy


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.float32(a @ b / np.sqrt((a @ a) * (b @ b))))


def apart(pairs: int) -> list[tuple[str, str]]:
    return [(f"a{p}", f"b{p}") for p in range(pairs)]


def better(own: float, other: float) -> float:
    return 1.0 if own > other else 0.5 if own == other else 0.0


def test_equals_a_loop_over_every_comparison(rng):
    audio, text = rng.standard_normal((2, 2, 5)), rng.standard_normal((2, 3, 2, 5))  # of two, the other is the one
    found = {"accuracy": [], "text_to_audio": [], "both": [], "text_only": [], "audio_only": []}
    for p in range(2):
        for w in range(3):
            (a, b), (s, t) = audio[p], text[p, w]
            (c, d), (u, v) = audio[1 - p], text[1 - p, w]
            heard = [better(cosine(a, s), cosine(a, t)), better(cosine(b, t), cosine(b, s))]
            told = [better(cosine(a, s), cosine(b, s)), better(cosine(b, t), cosine(a, t))]
            found["accuracy"].append(np.mean(heard))
            found["text_to_audio"].append(np.mean(told))
            found["both"].append(float(min(*heard, *told) == 1))
            guessed = [better(cosine(c, s), cosine(c, t)), better(cosine(d, t), cosine(d, s))]
            found["text_only"].append(np.mean(guessed))
            guessed = [better(cosine(a, u), cosine(b, u)), better(cosine(b, v), cosine(a, v))]
            found["audio_only"].append(np.mean(guessed))
    result = order_accuracy(audio, text, apart(2), samples=20)
    assert {k: v.value for k, v in result.metrics.items()} == pytest.approx({k: np.mean(v) for k, v in found.items()})


def test_a_model_that_hears_order_is_right_and_its_controls_are_not(rng):
    # Names of the first and of the second sound in halves of their own: the order is all there is to know.
    first, second = rng.standard_normal((40, 8)), rng.standard_normal((40, 8))
    audio = np.stack([np.concatenate([first, second], 1), np.concatenate([second, first], 1)], 1)
    text = np.repeat(audio[:, None], 2, axis=1)
    result = order_accuracy(audio, text, apart(40), wordings=["A, then B", "B after A"], samples=200)
    value = {name: score.value for name, score in result.metrics.items()}
    assert (value["accuracy"], value["text_to_audio"], value["both"]) == (1.0, 1.0, 1.0)
    for control in ("text_only", "audio_only"):
        assert result.metrics[control].low <= 0.5 <= result.metrics[control].high
    assert result.per_class["B after A"] == {"n": 40, "accuracy": 1.0}
    assert {name: score.chance for name, score in result.metrics.items()} == pytest.approx(
        {"accuracy": 0.5, "text_to_audio": 0.5, "both": 1 / 6, "text_only": 0.5, "audio_only": 0.5}
    )


def test_controls_take_a_pair_that_shares_no_sound():
    # One place for every name on either half: sounds of other names tie exactly, a shared name would not.
    names = [(p // 10, 4 + p) for p in range(40)]
    first, second = (np.eye(44)[[pair[i] for pair in names]] for i in (0, 1))
    audio = np.stack([np.concatenate([first, second], 1), np.concatenate([second, first], 1)], 1)
    metrics = order_accuracy(audio, audio[:, None], names, samples=50).metrics
    assert [metrics[name].value for name in ("accuracy", "text_only", "audio_only")] == [1.0, 0.5, 0.5]


def test_whoever_does_not_listen_gets_exactly_half(rng):
    text = rng.standard_normal((9, 4, 2, 6))
    deaf = np.broadcast_to(rng.standard_normal(6), (9, 2, 6))
    bag = np.repeat(rng.standard_normal((9, 1, 6)), 2, axis=1)  # what is heard, not when: one vector for both orders
    for audio in (deaf, bag):
        value = {name: score.value for name, score in order_accuracy(audio, text, apart(9), samples=5).metrics.items()}
        assert (value["accuracy"], value["text_only"], value["text_to_audio"], value["both"]) == (0.5, 0.5, 0.5, 0.0)
    speechless = np.repeat(rng.standard_normal((9, 4, 1, 6)), 2, axis=2)
    value = order_accuracy(rng.standard_normal((9, 2, 6)), speechless, apart(9), samples=5).metrics
    assert (value["accuracy"].value, value["audio_only"].value) == (0.5, 0.5)


def test_first_named_sounds_first_gains_nothing_over_both_orders_of_mention(rng):
    names = rng.standard_normal((30, 2, 8))
    said = np.stack([np.concatenate([names[:, 0], names[:, 1]], 1), np.concatenate([names[:, 1], names[:, 0]], 1)], 1)
    text = np.stack([said, said[:, ::-1]], axis=1)  # A named first; B named first, and the sentence means the same
    result = order_accuracy(said, text, apart(30), wordings=["forward", "backward"], samples=5)
    assert [result.per_class[w]["accuracy"] for w in ("forward", "backward")] == [1.0, 0.0]
    assert result.metrics["accuracy"].value == 0.5


def test_pairs_of_one_recording_are_resampled_together(rng):
    audio, text = rng.standard_normal((60, 2, 4)), rng.standard_normal((60, 1, 2, 4))
    alone = order_accuracy(audio, text, apart(60)).metrics["accuracy"]
    together = order_accuracy(audio, text, apart(60), groups=["one"] * 60).metrics["accuracy"]
    assert alone.low < alone.value < alone.high
    assert together.low == together.value == together.high == alone.value


@pytest.mark.parametrize(
    ("audio", "text", "more", "said"),
    [
        ((4, 3, 5), (4, 2, 2, 5), {}, r"audio_P2D has shape \(4, 3, 5\)"),
        ((4, 2, 5), (4, 2, 5), {}, r"text_PW2D has shape \(4, 2, 5\)"),
        ((4, 2, 5), (4, 0, 2, 5), {}, r"text_PW2D has shape \(4, 0, 2, 5\)"),
        ((4, 2, 5), (3, 2, 2, 5), {}, "4 pairs of width 5 in audio_P2D and 3 of width 5"),
        ((4, 2, 5), (4, 2, 2, 6), {}, "4 pairs of width 5 in audio_P2D and 4 of width 6"),
        ((4, 2, 5), (4, 2, 2, 5), {"names_P": apart(3)}, "names_P has 3 rows for 4 pairs"),
        ((2, 2, 5), (2, 2, 2, 5), {"names_P": [("x", "y"), ("z", "z")]}, "two different names for each"),
        ((3, 2, 5), (3, 2, 2, 5), {"names_P": [("x", "y"), ("y", "z"), ("x", "q")]}, "every other pair has 'x' or 'y'"),
        ((1, 2, 5), (1, 2, 2, 5), {}, "every other pair has 'a0' or 'b0'"),
        ((4, 2, 5), (4, 2, 2, 5), {"wordings": ["x"]}, "1 names for 2 wordings"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(audio, text, more, said):
    with pytest.raises(DataError, match=said):
        order_accuracy(np.ones(audio), np.ones(text), **{"names_P": apart(audio[0]), **more})


def test_vectors_that_say_nothing_are_refused():
    with pytest.raises(DataError, match="audio_P2D"):
        order_accuracy(np.zeros((3, 2, 4)), np.ones((3, 1, 2, 4)), apart(3))
