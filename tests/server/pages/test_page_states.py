"""The page when things are otherwise: no server, a key, evil names, an old index, a phone, the dark, no eyes."""

from __future__ import annotations

import re

import pytest

from clapkit.server.rows import ExactRows

SETTLED = "#list[aria-busy=false] .row"
ROLES = {
    "button",
    "link",
    "textbox",
    "searchbox",
    "checkbox",
    "slider",
    "combobox",
    "spinbutton",
    "application",
    "image",
}


def nameless(page):
    """Everything that can be used and has no name for those who do not see it."""
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    used = [node for node in tree if not node["ignored"] and node["role"]["value"] in ROLES]
    assert len(used) > 1  # a dialog that is open leaves nothing else to be used
    return [node["role"]["value"] for node in used if not node.get("name", {}).get("value", "").strip()]


def is_too_wide(page):
    return page.evaluate("document.documentElement.scrollWidth > innerWidth")


def test_a_server_that_dies_is_missed_and_comes_back(open_library, go):
    with open_library() as at:
        page = go(at=at, may_complain=True)
        page.fill("#query", "rain")
        page.wait_for_selector(SETTLED)
    page.fill("#query", "rain on a roof")
    page.wait_for_selector("#banner:not([hidden])")
    assert "does not answer" in page.inner_text("#banner")
    assert page.locator(".row").count(), "what was found stays to be read"
    port = int(at.rpartition(":")[2])
    asked = []

    def answer(route):
        asked.append(route.request.url)
        route.fulfill(
            json={"results": [], "rows": 7} if "/search" in route.request.url else {"status": "ok", "rows": 7}
        )

    page.route(f"http://127.0.0.1:{port}/**", answer)
    page.wait_for_selector("#banner", state="hidden")
    page.wait_for_selector(".message h2:has-text('Nothing found')")
    assert any("rain+on+a+roof" in url for url in asked)


def test_a_busy_server_says_so(go):
    page = go(may_complain=True)
    told = {"error": {"message": "more than 256 requests are under way: try again in a moment"}}
    asked = []

    def refuse(route):
        asked.append(route.request.url)
        route.fulfill(status=429, json=told, headers={"Retry-After": "0.2"})

    page.route("**/search?*", refuse)
    page.fill("#query", "rain")
    page.wait_for_selector(".message h2:has-text('server is busy')")
    assert told["error"]["message"] in page.inner_text(".message")
    assert len(asked) == 3, "it is asked again by itself before anybody is told"
    page.unroute("**/search?*")
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector(SETTLED)


def test_waiting_is_shown(go):
    page = go()
    held = []
    page.route("**/search?*", lambda route: held.append(route))
    page.fill("#query", "rain")
    page.wait_for_selector("#list[aria-busy=true] .skeleton")
    held[0].continue_()
    page.wait_for_selector(SETTLED)
    page.fill("#query", "rain in the woods")
    page.wait_for_selector("#list[aria-busy=true] .row", state="attached")


def test_names_are_text_whatever_is_in_them(go, library):
    page = go("?q=rooster&k=400")
    page.wait_for_selector(SETTLED)
    evil = next(path.name for path, tag in library.files.items() if tag.startswith("<script>"))
    row = page.locator(".row", has_text=evil)
    assert row.count() == 1
    assert row.locator(".tag").inner_text() == "<script>window.hacked=1</script>"
    row.locator(".name").click()
    page.wait_for_selector(".labels .label")
    page.wait_for_selector(".neighbours li")
    assert page.inner_text("#detail h2") == evil
    page.locator("#as-map").click()
    page.wait_for_selector("#map canvas")
    page.wait_for_timeout(300)
    page.goto(page.url.split("/?")[0] + "/?q=%3Cimg+src%3Dx+onerror%3Dwindow.hacked%3D1%3E")
    page.wait_for_selector(SETTLED)
    assert page.evaluate("window.hacked") is None
    assert page.locator("img[src=x], main script").count() == 0


def test_the_key_is_asked_for_once_and_sounds_play_with_it(open_library, go, tab):
    with open_library(api_key="open sesame") as at:
        page = tab(may_complain=True)
        page.goto(f"{at}/?q=rain")
        page.wait_for_selector("#ask-key[open]")
        page.fill("#key", "wrong")
        page.press("#key", "Enter")
        page.wait_for_selector("#ask-key:has-text('did not fit')")
        page.fill("#key", "open sesame")
        page.press("#key", "Enter")
        page.wait_for_selector(SETTLED)
        page.wait_for_function("() => document.querySelector('.thumb img').naturalWidth > 0")
        page.locator(".row .play").first.click()
        page.wait_for_function("() => document.getElementById('player').currentTime > 0.1")
        assert page.evaluate("document.getElementById('player').src").startswith("blob:")
        page.reload()
        page.wait_for_selector(SETTLED)
        assert not page.locator("#ask-key").is_visible()
        assert page.evaluate("JSON.stringify(localStorage)").find("sesame") < 0
        assert "sesame" not in page.url


def test_an_index_of_the_old_kind_can_be_searched_too(serve, served, go):
    with serve(index=ExactRows(served.index)) as at:
        page = go(at=at, may_complain=True)  # the browser writes down the 404 of /filters
        assert "nothing to filter by" in page.inner_text("#filters")
        page.fill("#query", "a bell")
        page.wait_for_selector(SETTLED)
        assert page.locator(".row").count() == 6
        page.locator(".row .name").first.click()
        page.wait_for_selector(".neighbours li")
        page.keyboard.press("s")
        page.wait_for_function("() => document.querySelectorAll('.row').length === 5")
        page.keyboard.press("m")
        page.wait_for_selector("#map .message h2:has-text('No map')")


@pytest.mark.parametrize("width", [390, 820, 1440])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_nothing_hangs_over_and_everything_has_a_name(go, width, dark):
    page = go("?q=rain", width=width, dark=dark)
    page.wait_for_selector(SETTLED)
    assert not is_too_wide(page)
    page.locator(".row .name").first.click()
    page.wait_for_selector(".neighbours li")
    assert not is_too_wide(page) and nameless(page) == []
    page.keyboard.press("Escape")
    if not page.locator("#filters").is_visible():
        page.locator("#show-filters").click()
    assert page.locator("#way-moments").is_visible()
    assert not is_too_wide(page) and nameless(page) == []
    page.locator("#show-keys").click()
    assert not is_too_wide(page) and nameless(page) == []


def test_dark_and_light_are_as_the_system_has_it_or_as_chosen(go):
    page = go(dark=True)

    def lightness():
        found = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return max(map(int, re.findall(r"\d+", found)[:3]))

    assert lightness() < 40
    page.locator("#theme").click()  # light
    assert lightness() > 230
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert lightness() > 230, "the choice is remembered"
    page.locator("#theme").click()
    assert lightness() < 40
    assert page.locator("#theme").get_attribute("aria-label") == "Colours: dark"


def test_text_stands_out_from_what_is_behind_it(go):
    for dark in (False, True):
        page = go("?q=rain", dark=dark)
        page.wait_for_selector(SETTLED)
        pairs = page.evaluate(
            """() => {
                const probe = document.body.appendChild(document.createElement("span"));
                const read = (name) => { probe.style.color = `var(${name})`; return getComputedStyle(probe).color; };
                const found = [];
                for (const paper of ["--paper", "--surface", "--raised", "--accent-soft"])
                    for (const ink of ["--text", "--quiet", "--accent"])
                        found.push([ink, paper, read(ink), read(paper)]);
                return found;
            }"""
        )
        for ink, paper, *colours in pairs:
            light, dim = sorted((luminance(colour) for colour in colours), reverse=True)
            assert (light + 0.05) / (dim + 0.05) >= 4.5, (ink, paper, dark)


def luminance(colour):
    """Relative luminance as WCAG 2 defines it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
