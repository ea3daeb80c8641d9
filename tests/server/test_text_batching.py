"""Texts of many requests in one call: the same vectors, and nobody pays for another's fault."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest

from clapkit.errors import TextTowerError
from clapkit.server.batching import SearchBatcher, TextBatcher
from clapkit.server.refusals import Refusal


def toy(texts):
    """A vector of length and first letter; 'bad' anywhere spoils the call, as a text that an encoder cannot take."""
    if "bad" in texts:
        raise TextTowerError("'bad' cannot be embedded")
    return np.array([[len(text), ord(text[0])] for text in texts], np.float32)


def together(requests, *, embed=toy, **settings):
    """The answers (or exceptions) of requests that come at the same time, and the sizes of the calls."""
    sizes = []

    async def run():
        batcher = TextBatcher(embed, on_batch=sizes.append, **settings)
        answers = await asyncio.gather(*(batcher.embed(texts) for texts in requests), return_exceptions=True)
        assert batcher.waiting == 0
        await batcher.close()
        return answers

    return asyncio.run(run()), sizes


def test_requests_at_the_same_time_share_one_call():
    requests = [[f"text {'x' * n}"] for n in range(20)]
    answers, sizes = together(requests)
    assert sizes == [20]
    for texts, answer in zip(requests, answers, strict=True):
        np.testing.assert_array_equal(answer, toy(texts))


def test_the_vectors_of_a_real_encoder_are_those_of_single_calls(served):
    requests = [["rain"], ["a dog barks twice in the yard", "rain"], ["bell"], ["x" * 60], ["дождь"]]
    answers, sizes = together(requests, embed=served.clap.embed_text)
    assert sizes == [5]  # the same text twice is embedded once
    for texts, answer in zip(requests, answers, strict=True):
        alone_ND = np.concatenate([served.clap.embed_text([text]) for text in texts])
        np.testing.assert_allclose(answer, alone_ND, atol=1e-6)


def test_calls_are_bounded_and_a_long_request_lets_others_in():
    order = []

    def slow(texts):
        time.sleep(0.005)
        order.append(texts[0])
        return toy(texts)

    long = [f"long {n}" for n in range(30)]
    answers, sizes = together([long, ["short"]], embed=slow, texts_at_once=10)
    assert max(sizes) <= 10
    assert order.index("short") < order.index("long 20")
    np.testing.assert_array_equal(answers[0], toy(long))


def test_texts_that_come_while_the_encoder_works_go_together():
    async def run():
        sizes = []
        batcher = TextBatcher(lambda texts: time.sleep(0.05) or toy(texts), on_batch=sizes.append, window_s=0.0)
        first = asyncio.create_task(batcher.embed(["first"]))
        await asyncio.sleep(0.02)
        await asyncio.gather(first, *(batcher.embed([f"later {n}"]) for n in range(5)))
        await batcher.close()
        return sizes

    assert asyncio.run(run()) == [1, 5]


def test_a_text_that_fails_costs_its_own_request_only():
    answers, _ = together([["rain"], ["bad"], ["bell"]])
    assert isinstance(answers[1], TextTowerError)
    np.testing.assert_array_equal(answers[0], toy(["rain"]))
    np.testing.assert_array_equal(answers[2], toy(["bell"]))


def test_too_many_waiting_texts_are_refused_and_later_ones_taken():
    async def run():
        batcher = TextBatcher(lambda texts: time.sleep(0.05) or toy(texts), most_waiting=3)
        waiting = asyncio.create_task(batcher.embed(["a", "b", "c"]))
        await asyncio.sleep(0)
        with pytest.raises(Refusal, match="3 texts wait") as refused:
            await batcher.embed(["d"])
        assert refused.value.status == 429
        await waiting
        np.testing.assert_array_equal(await batcher.embed(["d"]), toy(["d"]))
        await batcher.close()

    asyncio.run(run())


def test_whoever_goes_away_is_not_embedded():
    async def run():
        seen = []
        batcher = TextBatcher(lambda texts: seen.extend(texts) or toy(texts), window_s=0.05)
        gone = asyncio.create_task(batcher.embed(["gone"]))
        stays = asyncio.create_task(batcher.embed(["stays"]))
        await asyncio.sleep(0.01)
        gone.cancel()
        await stays
        await batcher.close()
        return seen

    assert asyncio.run(run()) == ["stays"]


def test_closing_ends_those_who_wait():
    async def run():
        batcher = TextBatcher(lambda texts: time.sleep(0.05) or toy(texts))
        tasks = [asyncio.create_task(batcher.embed([name])) for name in "ab"]
        await asyncio.sleep(0.02)
        tasks.append(asyncio.create_task(batcher.embed(["c"])))
        await asyncio.sleep(0)
        await batcher.close()
        assert all(isinstance(e, asyncio.CancelledError) for e in await asyncio.gather(*tasks, return_exceptions=True))

    asyncio.run(run())


def searched_together(directions, *, ks=None, search=None, **settings):
    """The answers (or exceptions) of searches that come at the same time, and the sizes of the calls."""
    sizes = []

    async def plain(queries_QD, k):
        sizes.append((len(queries_QD), k))
        await asyncio.sleep(0.01)
        return [(float(query_D.sum()), k) for query_D in queries_QD]

    async def run():
        batcher = SearchBatcher(search or plain, **settings)
        asked = (batcher.find(d, k) for d, k in zip(directions, ks or [10] * len(directions), strict=True))
        answers = await asyncio.gather(*asked, return_exceptions=True)
        again = await asyncio.gather(batcher.find(directions[0], 10), return_exceptions=True)  # it starts once more
        return answers, again[0]

    answers, again = asyncio.run(run())
    return answers, sizes, again


def test_searches_at_the_same_time_share_calls_and_have_their_own_answers():
    directions = [np.full(3, n, np.float32) for n in range(40)]
    answers, sizes, again = searched_together(directions, at_once=16)
    assert answers == [(3.0 * n, 10) for n in range(40)] and again == (0.0, 10)
    assert sizes == [(16, 10), (16, 10), (8, 10), (1, 10)]


def test_searches_for_different_numbers_of_results_are_kept_apart():
    directions = [np.full(3, n, np.float32) for n in range(6)]
    answers, sizes, _ = searched_together(directions, ks=[10, 10, 5, 5, 5, 500])
    assert answers == [(3.0 * n, k) for n, k in enumerate([10, 10, 5, 5, 5, 500])]
    assert sizes[:3] == [(2, 10), (3, 5), (1, 500)]


def test_a_search_that_fails_is_told_to_all_that_waited_for_it():
    async def broken(queries_QD, k):
        raise RuntimeError("the disk is gone")

    answers, _, again = searched_together([np.ones(3)] * 4, search=broken)
    assert [str(answer) for answer in [*answers, again]] == ["the disk is gone"] * 5
