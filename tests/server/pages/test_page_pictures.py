"""Pictures of the page for the documentation, and how soon the page can be used.

CLAPKIT_PICTURES=docs/pictures writes them there; CLAPKIT_PAGE=http://127.0.0.1:8000 takes them of a server that runs,
over more sounds than the sixty of the tests.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MOST_BYTES = 150_000
SETTLED = "#list[aria-busy=false] .row"
READY_MS = """
new MutationObserver((_, seen) => {
    if (!document.documentElement.dataset.ready) return;
    window.readyMs = performance.now();
    seen.disconnect();
}).observe(document, { attributes: true, childList: true, subtree: true });
"""


@pytest.fixture
def shown_at(address):
    return os.environ.get("CLAPKIT_PAGE", address)


@pytest.fixture
def keep(tmp_path):
    """`keep(page, name)`: a picture of what is in sight, with few enough colours to be small."""
    folder = Path(os.environ.get("CLAPKIT_PICTURES", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)

    def write(page, name):
        page.wait_for_timeout(300)
        whole = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        whole.quantize(160, dither=Image.Dither.NONE).save(folder / f"{name}.png", optimize=True)
        assert 5_000 < (folder / f"{name}.png").stat().st_size < MOST_BYTES
        assert len(np.unique(np.asarray(whole).reshape(-1, 3), axis=0)) > 100, "the picture is empty"

    return write


def pictures_are_there(page, count):
    script = "count => [...document.querySelectorAll('.thumb img')].filter((one) => one.naturalWidth).length >= count"
    page.wait_for_function(script, arg=count)


def select_first(page):
    page.locator(".row .name").first.click()
    page.wait_for_selector(".neighbours li")
    page.wait_for_selector(".labels .label")
    page.wait_for_function("() => document.querySelector('.picture').naturalWidth > 0")


def test_a_search_with_a_selected_sound(go, shown_at, keep):
    page = go("?q=glass+breaking", at=shown_at, width=1280, height=720)
    page.wait_for_selector(SETTLED)
    select_first(page)
    page.wait_for_function("() => document.querySelector('.wave > div')?.shadowRoot?.querySelector('canvas')")
    pictures_are_there(page, 12)
    box = page.locator(".wave").bounding_box()
    page.mouse.move(box["x"] + 0.01 * box["width"], box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.22 * box["width"], box["y"] + 30, steps=4)
    page.mouse.up()
    assert page.locator(".chosen").is_visible()
    keep(page, "page-search")


def test_the_map_in_the_dark(go, shown_at, keep):
    page = go("?q=rain&view=map", at=shown_at, width=1280, height=720, dark=True)
    page.wait_for_selector("#map canvas[aria-busy=false]")
    page.wait_for_function("() => /of/.test(document.getElementById('summary').textContent)")
    keep(page, "page-map")


def test_on_a_phone(go, shown_at, keep):
    page = go("?q=church+bells", at=shown_at, width=390, height=780)
    page.wait_for_selector(SETTLED)
    pictures_are_there(page, 5)
    keep(page, "page-phone")
    select_first(page)
    keep(page, "page-phone-sound")


def test_how_soon_it_can_be_used(tab, shown_at, record_property):
    page = tab()
    page.add_init_script(READY_MS)
    page.goto(shown_at)
    page.wait_for_function("() => window.readyMs")
    ready_ms = page.evaluate("window.readyMs")
    record_property("ready_ms", round(ready_ms))
    print(f"\nthe page is ready after {ready_ms:.0f} ms")
    assert page.locator("#query").is_editable() and page.locator(".message .chip").count()
