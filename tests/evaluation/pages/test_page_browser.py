"""The report in a real browser: it is quiet, stays at home, fits a phone, and obeys the reader's colours and keys."""

from __future__ import annotations

import re

import chromium_pipe
import pytest
from suite_on_disk import ESC50, HOSTILE, SuiteOnDisk

from clapkit.evaluation.pages.report import write_report
from clapkit.evaluation.pages.style import DARK, LIGHT

pytestmark = pytest.mark.skipif(chromium_pipe.found() is None, reason="there is no Chromium to look at the page with")
LOUD = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = chromium_pipe.Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    suite = SuiteOnDisk(tmp_path_factory.mktemp("pages") / "suite", samples=5)
    suite.whole["model"] |= {"logit_scale": 20.0, "name": "a-very-long-name-" * 8}
    suite.add_classes("fifty", ESC50, per_class=6, noise=2.0)
    suite.add_classes("hostile", [*HOSTILE, "y" * 300], per_class=5, domain="music", standard=False,
                      differences=["x" * 400, HOSTILE[0]])  # fmt: skip
    suite.add_tags("tags", ESC50[:10], domain="animals")
    suite.add_captions("captions", clips=20, domain="speech")
    clips = {"fifty": 300, "hostile": 30, "captions": 20}
    suite.sounds([f"{task}/{n}.wav" for task, count in clips.items() for n in range(count)], length_s=0.05)
    write_report(suite.write(), suite.folder / "report.html")
    return suite.folder / "report.html"


def colour(text):
    return "#" + "".join(f"{int(n):02x}" for n in re.findall(r"\d+", text)[:3])


def ground(browser):
    return colour(browser.ask("getComputedStyle(document.body).backgroundColor"))


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_opens_without_errors_and_asks_nobody_for_anything(browser, report, width, scheme):
    browser.open(report, width=width, scheme=scheme)
    assert [event for event in browser.events if event["method"] in LOUD] == []
    asked = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    # The browser's own icons for players are data.
    assert [url for url in asked if not url.startswith("data:")] == [report.resolve().as_uri()]


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_a_page_never_scrolls_sideways(browser, report, width):
    browser.open(report, width=width)
    assert browser.ask("document.querySelectorAll('details').forEach(d => d.open = true) || innerWidth") == width
    assert browser.ask("document.documentElement.scrollWidth") <= width
    # What is too wide scrolls inside its own frame.
    wider = browser.ask(
        "[...document.querySelectorAll('main *, header *, nav *, footer *')].filter(e => "
        "!e.closest('.wide, svg, .name') && e.getBoundingClientRect().right > innerWidth + 1)"
        ".map(e => e.outerHTML.slice(0, 120))"
    )
    assert wider == []


def test_names_of_metrics_are_whole_on_a_phone(browser, report):
    browser.open(report, width=390)
    browser.ask("document.querySelectorAll('details').forEach(d => d.open = true)")
    heads = "[...document.querySelectorAll('#task-fifty .table tbody th')]"
    assert browser.ask(f"{heads}.length") > 10
    assert browser.ask(f"{heads}.filter(h => h.scrollWidth > h.clientWidth + 1).map(h => h.textContent)") == []
    # Words stay whole: a name takes a few lines, not one a letter.
    assert browser.ask(f"Math.max(...{heads}.map(h => h.getBoundingClientRect().height))") < 150


@pytest.mark.parametrize(("scheme", "table"), [("light", LIGHT), ("dark", DARK)])
def test_both_schemes_have_the_intended_ground_and_ink(browser, report, scheme, table):
    browser.open(report, scheme=scheme)
    assert ground(browser) == table["paper"]
    assert colour(browser.ask("getComputedStyle(document.body).color")) == table["ink"]


def test_the_switch_turns_the_scheme_by_mouse_and_by_key(browser, report):
    browser.open(report, scheme="dark")
    assert browser.ask("document.querySelector('.theme').innerText") == "Light page"
    browser.ask("document.querySelector('.theme').click()")
    assert ground(browser) == LIGHT["paper"]
    browser.ask("document.querySelector('.theme').focus()")
    browser.press("Enter")
    assert ground(browser) == DARK["paper"]


def test_paper_is_light_whatever_the_screen(browser, report):
    browser.open(report, scheme="dark")
    browser.call(
        "Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}]
    )
    assert ground(browser) == "#ffffff"
    assert colour(browser.ask("getComputedStyle(document.body).color")) == LIGHT["ink"]
    assert browser.ask("[...document.querySelectorAll('audio, .theme, nav')].every(e => !e.offsetParent)")
    browser.call("Emulation.setEmulatedMedia", media="screen")


def test_every_player_has_a_name_and_plays_its_file(browser, report):
    browser.open(report)
    assert browser.ask("document.querySelectorAll('audio').length") > 20
    assert browser.ask("[...document.querySelectorAll('audio')].every(a => a.getAttribute('aria-label').length > 10)")
    known = browser.ask(
        "new Promise(done => { const a = document.querySelector('audio'); a.onloadedmetadata = () => done(a.duration);"
        " a.onerror = () => done(a.error.message); a.preload = 'metadata'; a.load(); })"
    )
    assert known == pytest.approx(0.05, abs=0.01)


def test_a_moved_file_is_told_beside_its_player(browser, report):
    browser.open(report)
    told = browser.ask(
        "new Promise(done => { const a = document.querySelector('audio'); a.addEventListener('error', () => "
        "setTimeout(() => done(a.nextElementSibling.textContent))); a.src = 'gone.wav'; a.load(); })"
    )
    assert "cannot be played" in told


def test_scripts_in_names_do_not_run_and_the_policy_would_stop_them(browser, report):
    browser.open(report)
    assert browser.ask("document.querySelectorAll('main script:not([type])').length") == 0
    stopped = browser.ask(
        "(() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1'; "
        "document.body.append(s); return window.ran === undefined; })()"
    )
    assert stopped


def test_a_matrix_can_be_read_with_the_arrow_keys_and_the_pointer(browser, report):
    browser.open(report)
    # A page that still glides when the pointer comes is read in another row.
    browser.ask("document.documentElement.style.scrollBehavior = 'auto'")
    browser.ask("document.querySelector('.matrix').focus()")
    browser.press("ArrowRight")
    told = "document.querySelector('.readout').textContent"
    names = browser.ask("JSON.parse(document.querySelector('.cells').textContent).names")
    assert browser.ask(told).startswith(f"truth: \u2068{names[0]}\u2069, best match: \u2068{names[1]}\u2069: ")
    browser.ask("document.querySelector('.matrix').scrollIntoView({ behavior: 'instant' })")
    x, y = browser.ask(
        "(() => { const m = document.querySelector('.matrix'), d = m.dataset; "
        "const p = new DOMPoint(Number(d.left) + 5.5 * d.cell, Number(d.top) + 3.5 * d.cell); "
        "const q = p.matrixTransform(m.getScreenCTM()); return [q.x, q.y]; })()"
    )
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert browser.ask(told).startswith(f"truth: \u2068{names[3]}\u2069, best match: \u2068{names[5]}\u2069: ")


def test_what_can_be_reached_by_key_shows_its_focus(browser, report):
    browser.open(report)
    browser.press("Tab")
    assert browser.ask("document.activeElement.className") == "skip"
    for _ in range(3):
        browser.press("Tab")
        assert browser.ask("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_words_in_the_page_do_not_overlap_in_a_matrix_of_fifty(browser, report):
    browser.open(report)
    overlaps = browser.ask(
        "(() => { const rows = [...document.querySelectorAll('.matrix')[0].querySelectorAll('text[text-anchor=end]')]"
        ".map(t => t.getBoundingClientRect()); return rows.slice(1).filter((r, i) => "
        "(r.top + r.bottom) / 2 - (rows[i].top + rows[i].bottom) / 2 < 10 || r.left < 0).length; })()"
    )
    assert overlaps == 0
