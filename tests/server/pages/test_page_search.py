"""What people do on the page, in a real browser over real sound: ask, listen, refine, go on from there."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from urllib.parse import parse_qs, urlsplit
from urllib.request import urlopen

import numpy as np
import pytest
import soundfile

from clapkit.search.query import Query, find

PLAYS = "() => { const audio = document.getElementById('player'); return !audio.paused && audio.currentTime > 0.15; }"
# Only this line is marked, and only its button says Stop: looked at together, since sounds are short.
ONE_SAYS_STOP = """(place) => [...document.querySelectorAll('.row')].every((row, at) => {
  const says = row.querySelector('.play').getAttribute('aria-label').startsWith('Stop ');
  return says === (at === place) && row.classList.contains('playing') === says;
})"""


def ask(page, text):
    fill(page, "#query", text, text=[text])


def fill(page, field, words, **wanted):
    """Write into a field, and wait for the answer to the question that has these parameters."""

    def is_it(answer):
        asked = parse_qs(urlsplit(answer.url).query)
        return all(asked.get(name) == value for name, value in wanted.items())

    with page.expect_response(is_it):
        page.fill(field, words)
    settle(page)


def settle(page):
    page.wait_for_selector("#list[aria-busy=false] .row")


def address_of(page):
    return parse_qs(urlsplit(page.url).query)


def expected(library, query, k=50):
    """Names of the files of the rows that a query finds, each once, in order."""
    rows = [match.row.file for match in find(library.store.view, query, k)]
    return list(dict.fromkeys(name.removeprefix(f"{library.folder / 'sounds'}/").replace("\\", "/") for name in rows))


def test_a_query_is_answered_while_it_is_typed(go, library, names):
    page = go()
    assert page.locator("h2").first.inner_text() == "What are you listening for?"
    ask(page, "a dog barks")
    wanted_ND = library.clap.embed_text(["a dog barks"])
    assert names(page) == expected(library, Query(wanted_ND))
    assert f"of {len(library.files)} sounds" in page.inner_text("#summary")
    fill(page, "#without", "rain, church bells", without=["rain", "church bells"])
    url = f"{page.url.split('/?')[0]}/search?text=a+dog+barks&without=rain&without=church+bells&k=50"
    told = [row["name"] for row in json.load(urlopen(url))["results"]]
    assert names(page) == list(dict.fromkeys(told))


def test_an_answer_that_is_overtaken_is_never_shown(go, names, library):
    page = go()
    held = []
    page.route("**/search?text=slow*", lambda route: held.append(route))
    page.fill("#query", "slow")
    page.wait_for_timeout(500)
    assert held, "the first question was asked"
    ask(page, "rain")
    for route in held:
        with suppress(Exception):  # the browser may have forgotten it, as it should
            route.fulfill(json={"results": [], "rows": 0})
    page.wait_for_timeout(200)
    assert names(page) == expected(library, Query(library.clap.embed_text(["rain"])))


def test_typing_asks_once_and_not_for_every_letter(go):
    page = go()
    asked = []
    page.on("request", lambda request: asked.append(request.url) if "/search?" in request.url else None)
    page.locator("#query").press_sequentially("church bells ring", delay=15)
    settle(page)
    assert len(asked) <= 3 and asked[-1].split("text=")[1].startswith("church+bells+ring")


def test_sounds_play_one_at_a_time(go):
    page = go("?q=rain")
    settle(page)
    first, second = page.locator(".row .play").nth(0), page.locator(".row .play").nth(1)
    first.click()
    page.wait_for_function(ONE_SAYS_STOP, arg=0)
    second.click()
    page.wait_for_function(ONE_SAYS_STOP, arg=1)
    page.wait_for_function(PLAYS)
    assert page.evaluate("[...document.querySelectorAll('audio')].filter((one) => !one.paused).length") == 1
    second.click()
    page.wait_for_function("() => document.getElementById('player').paused")
    assert page.locator(".row.playing").count() == 0


def test_hovering_plays_only_when_it_is_wanted(go):
    page = go("?q=rain")
    settle(page)
    thumb = page.locator(".row .thumb").nth(2)
    thumb.hover()
    page.wait_for_timeout(400)
    assert page.evaluate("document.getElementById('player').paused")
    page.check("#hover-play")
    page.mouse.move(5, 5)
    thumb.hover()
    page.wait_for_function(PLAYS)
    page.mouse.move(5, 5)
    page.wait_for_function("() => document.getElementById('player').paused")


def test_filters_hold_and_are_undone(go, names):
    page = go("?q=rain")
    settle(page)
    everything = names(page)
    page.get_by_role("button", name="siren", exact=False).first.click()
    page.wait_for_function("() => location.search.includes('tags=siren')")
    settle(page)
    assert names(page) and all(name.startswith("siren/") for name in names(page))
    page.fill("#length-min", "900")
    page.wait_for_selector(".message h2:has-text('Nothing found')")
    page.get_by_role("button", name="Clear filters").click()
    page.wait_for_function("() => !location.search.includes('tags') && !location.search.includes('min')")
    settle(page)
    assert names(page) == everything
    page.go_back()
    page.wait_for_selector(".message h2:has-text('Nothing found')")


def test_a_condition_that_is_none_is_explained_and_removed(go, names):
    page = go("?q=rain", may_complain=True)  # the browser itself writes down every 422
    page.fill("#condition", "lenght>2")
    page.press("#condition", "Enter")
    page.wait_for_selector(".message h2:has-text('cannot be searched')")
    assert "lenght" in page.inner_text(".message p")
    page.get_by_role("button", name="Remove the condition lenght>2").click()
    settle(page)


def test_a_dropped_sound_is_searched_by(go, library, names):
    page = go()
    file = sorted(path for path, tag in library.files.items() if tag == "siren")[0]
    data = base64.b64encode(file.read_bytes()).decode()
    transfer = page.evaluate_handle(
        """data => {
            const transfer = new DataTransfer();
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            transfer.items.add(new File([bytes], "query.flac", { type: "audio/flac" }));
            return transfer;
        }""",
        data,
    )
    page.dispatch_event("main", "dragenter", {"dataTransfer": transfer})
    assert page.locator("#drop").evaluate("veil => getComputedStyle(veil).display") == "grid"
    page.dispatch_event("main", "drop", {"dataTransfer": transfer})
    settle(page)
    assert page.locator("#drop").evaluate("veil => getComputedStyle(veil).display") == "none"
    assert names(page) == expected(library, Query(library.clap.embed_audio([file])))
    page.get_by_role("button", name="Remove query.flac from the query").click()
    page.wait_for_selector(".message h2:has-text('listening for')")


def test_what_is_no_sound_is_refused_with_the_reason(go):
    page = go(may_complain=True)
    page.set_input_files("#file", {"name": "no.wav", "mimeType": "audio/wav", "buffer": b"words, not sound"})
    page.wait_for_selector(".message h2:has-text('cannot be searched')")
    assert "sound cannot be used" in page.inner_text(".message p")


def test_sounds_like_one_of_the_results(go, names, library):
    page = go("?q=siren")
    settle(page)
    before, chosen = names(page), page.locator(".row").nth(1).get_attribute("data-id")
    page.locator(".row .name").nth(1).click()
    page.keyboard.press("s")
    page.wait_for_function("id => new URL(location).searchParams.get('like') === id", arg=chosen)
    settle(page)
    address = page.url.split("/?")[0]
    told = [row["name"] for row in json.load(urlopen(f"{address}/search?like={chosen}&k=50"))["results"]]
    page.wait_for_function("name => document.querySelector('.row .name')?.title === name", arg=told[0])
    assert names(page) == list(dict.fromkeys(told))
    assert page.locator("#examples .chip").inner_text().strip() == before[1].rpartition("/")[2]
    page.go_back()
    page.wait_for_function("name => document.querySelector('.row .name')?.title === name", arg=before[0])


def test_the_keyboard_does_it_all(go):
    page = go()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "query"
    page.keyboard.type("rain")
    settle(page)
    ids = page.locator(".row").evaluate_all("rows => rows.map(row => row.dataset.id)")
    selected = "() => document.querySelector('.row.selected')?.dataset.id"
    for key, place in (("ArrowDown", 0), ("j", 1), ("j", 2), ("k", 1), ("ArrowDown", 2), ("ArrowUp", 1)):
        page.keyboard.press(key)
        assert page.evaluate(selected) == ids[place], key
    assert address_of(page)["sel"] == [ids[1]]
    page.keyboard.press(" ")
    page.wait_for_function(PLAYS)
    page.keyboard.press(" ")
    page.wait_for_function("() => document.getElementById('player').paused")
    page.keyboard.press("a")
    page.wait_for_function("() => location.search.includes('like=')")
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#keys").is_visible()
    page.keyboard.press("f")
    assert not page.locator("#filters").is_visible()
    page.keyboard.press("Escape")
    page.wait_for_selector(".message h2:has-text('listening for')")
    assert address_of(page) == {}


def test_the_address_is_the_state(go, names):
    page = go("?q=rain&tags=dog&tags=rain&max=2&sel=&view=list")
    settle(page)
    shown = names(page)
    assert shown and all(name.split("/")[0] in ("dog", "rain") for name in shown)
    page.locator(".row .name").nth(0).click()
    other = go(f"?{urlsplit(page.url).query}")
    settle(other)
    assert names(other) == shown
    other.wait_for_selector("#detail.open h2")
    assert other.inner_text("#detail h2") == shown[0].rpartition("/")[2]


def test_the_selected_sound_in_detail(go, library):
    page = go("?q=siren&where=folder+contains+long")
    settle(page)
    page.locator(".row .name").first.click()
    page.wait_for_selector(".labels .label")
    shares = page.locator(".labels .label").all_inner_texts()
    assert len(shares) == 6 and len(set(shares)) == 6
    page.wait_for_selector(".moment")
    page.wait_for_function("() => document.querySelector('.wave > div')?.shadowRoot?.querySelector('canvas')")
    page.wait_for_function("() => document.querySelector('.picture').naturalWidth === 800")
    marked = page.evaluate("document.querySelector('.wave > div').shadowRoot.querySelectorAll('[part~=region]').length")
    assert marked == page.locator(".overlay i").count() > 0
    start_s = float(page.locator(".moment").first.inner_text().split("–")[0])
    page.locator(".moment").first.click()
    page.wait_for_function("start => document.getElementById('player').currentTime > start + 0.05", arg=start_s)
    page.wait_for_function("() => document.getElementById('player').paused")
    box = page.locator(".view").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_function(PLAYS)
    length_s = page.evaluate("document.getElementById('player').duration")
    assert abs(page.evaluate("document.getElementById('player').currentTime") / length_s - 0.5) < 0.2


CHOSEN = """() => {
    const veil = document.querySelector('.chosen');
    const part = (name) => Number(veil.style.getPropertyValue(name));
    return veil.hidden ? null : [part('--from'), part('--to')];
}"""


def drag(page, selector, begin, end):
    """Draw from one share of the width of an element to another."""
    box = page.locator(selector).bounding_box()
    page.mouse.move(box["x"] + begin * box["width"], box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + end * box["width"], box["y"] + box["height"] / 2, steps=6)
    page.mouse.up()


def open_long(go, address):
    """The page with the long file selected, its waveform drawn, and how long it is."""
    long = json.load(urlopen(f"{address}/search?text=siren&where=folder+contains+long&k=1"))["results"][0]["id"]
    page = go(f"?q=siren&sel={long}")
    settle(page)
    page.wait_for_function("() => document.querySelector('.wave > div')?.shadowRoot?.querySelector('canvas')")
    return page, float(page.locator("#part-to").get_attribute("placeholder"))


def told_of_part(library, from_s, end_s):
    """The names that a search by seconds of the long file finds, as the library itself has it."""
    file = next(path for path, tag in library.files.items() if tag == "field")
    samples_N, rate_hz = soundfile.read(file, dtype="float32")
    part_N = samples_N[round(from_s * rate_hz) : round(end_s * rate_hz)]
    return expected(library, Query(library.clap.embed_audio([(part_N, rate_hz)])))


@pytest.mark.parametrize("what", [".wave", ".view"])
def test_a_part_that_is_drawn_is_searched_by(go, address, library, names, what):
    page, length_s = open_long(go, address)
    drag(page, what, 0.6, 0.25)  # backwards
    assert page.evaluate(CHOSEN) == pytest.approx([0.25, 0.6], abs=0.01)
    assert not page.evaluate(PLAYS), "drawing is no click"
    from_s, end_s = (float(page.input_value(f"#part-{name}")) for name in ("from", "to"))
    assert [from_s, end_s] == pytest.approx([0.25 * length_s, 0.6 * length_s], abs=0.02 * length_s)
    page.get_by_role("button", name="Play the part").click()
    page.wait_for_function("from => document.getElementById('player').currentTime > from + 0.1", arg=from_s)
    page.wait_for_function("() => document.getElementById('player').paused")
    assert page.evaluate("document.getElementById('player').currentTime") == pytest.approx(end_s, abs=0.3)
    page.get_by_role("button", name="Find similar").click()
    page.wait_for_function("() => location.search.includes('like=')")
    (example,) = address_of(page)["like"]
    assert example.partition(":")[2] == f"{from_s:.2f}-{end_s:.2f}"
    settle(page)
    first = json.load(urlopen(f"{address}/search?like={example}&k=50"))["results"][0]["name"]
    page.wait_for_function("name => document.querySelector('.row .name')?.title === name", arg=first)
    # Cut and then resampled is not quite resampled and then cut: nearly the same sounds, in nearly the same order.
    assert len(set(names(page)[:20]) & set(told_of_part(library, from_s, end_s)[:20])) >= 16
    assert page.locator("#examples .chip").inner_text().strip() == f"a walk.flac {from_s:.2f}–{end_s:.2f} s"
    again = go(f"?{urlsplit(page.url).query}")
    settle(again)
    assert names(again) == names(page)


def test_a_part_without_a_pointer(go, address):
    """Typed as seconds, or marked by keys while it plays."""
    page, length_s = open_long(go, address)
    assert page.get_by_role("button", name="Find similar").is_disabled()
    page.fill("#part-from", "1.5")
    page.fill("#part-to", "1.4")
    assert page.evaluate(CHOSEN) is None and page.get_by_role("button", name="Find similar").is_disabled()
    page.fill("#part-to", "2.5")
    assert page.evaluate(CHOSEN) == pytest.approx([1.5 / length_s, 2.5 / length_s])
    page.press("#part-to", "Enter")
    page.wait_for_function("() => location.search.includes('1.50-2.50')")
    page.get_by_role("button", name="No part").click()
    assert page.evaluate(CHOSEN) is None
    page.locator("#detail .play").first.click()
    page.wait_for_function(PLAYS)
    page.locator("#detail h2").click()
    page.keyboard.press("i")
    begun = float(page.input_value("#part-from"))
    page.wait_for_function("at => document.getElementById('player').currentTime > at + 0.4", arg=begun)
    page.keyboard.press("o")
    ended = float(page.input_value("#part-to"))
    assert begun + 0.3 < ended < length_s
    page.keyboard.press("r")
    page.wait_for_function("part => location.search.includes(part)", arg=f"{begun:.2f}-{ended:.2f}")


def test_labels_are_the_listeners_own(go, library):
    page = go("?q=siren")
    settle(page)
    page.locator(".row .name").first.click()
    page.wait_for_selector(".labels .label")
    page.locator("details summary").click()
    page.fill("#label-field", "a bell\nrain, a dog, rain")
    page.wait_for_function("() => document.querySelectorAll('.labels .label').length === 3")
    name = page.locator(".row .name").first.get_attribute("title")
    row = find(library.store.view, Query(library.clap.embed_text(["siren"])), 1)[0].row
    assert row.file.replace("\\", "/").endswith(name)
    vector_D = np.asarray(library.store.view.vectors([row.id])[0], np.float32)
    wanted = library.clap.classify_vectors(vector_D[None], ["a bell", "rain", "a dog"])[0]
    assert page.locator(".labels .label").all_inner_texts() == [label for label, _ in wanted]
    shown = [float(text.strip(" %<")) for text in page.locator(".labels .share").all_inner_texts()]
    assert shown == pytest.approx([100 * share for _, share in wanted], abs=0.6)
    assert page.evaluate("localStorage['clapkit.labels']").startswith("a bell")
