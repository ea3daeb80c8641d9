"""A store of sixty short sounds behind a server, and a real browser that looks at it."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

REPOSITORY = Path(__file__).resolve().parents[3]
SOUNDS = REPOSITORY.parent / "shared" / "data" / "esc50"
KINDS = ("dog", "rain", "glass breaking", "church bells", "clock tick", "crying baby", "footsteps", "engine")
KINDS += ("siren", "sneezing", "water drops", "rooster")
EACH = 5
CLIP_S = 1.2
# What a name may hold where the system allows it; where it does not (Windows), the tag holds it all the same.
EVIL_TAG = "<script>window.hacked=1</script>"
EVIL_NAME = "<img src=x onerror=window.hacked=1>.flac" if os.name != "nt" else "&lt;img src=x&gt;.flac"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")


@dataclass(frozen=True)
class Library:
    """What the page shows: `files` with the tag of each, and the store and model behind it."""

    folder: Path
    files: dict[Path, str]
    store: Any
    clap: Any


def real_sounds() -> Iterator[tuple[str, np.ndarray, int]]:
    """Tag, samples and rate of real clips."""
    counts = dict.fromkeys(KINDS, 0)
    with open(SOUNDS / "manifest.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            kind = row["label"].replace("_", " ")
            if counts.get(kind, EACH) < EACH:
                counts[kind] += 1
                samples_N, rate_hz = soundfile.read(SOUNDS / row["path"], dtype="float32", frames=round(CLIP_S * 48000))
                yield kind, samples_N, rate_hz


def made_sounds() -> Iterator[tuple[str, np.ndarray, int]]:
    """Tones that come and go over noise in their place, where there are no real ones."""
    rng = np.random.default_rng(4)
    time_N = np.arange(round(CLIP_S * 16000)) / 16000
    for number, kind in enumerate(KINDS):
        for _ in range(EACH):
            pitch_hz = 150 * (number + 1) * rng.uniform(0.9, 1.1)
            swell_N = np.clip(np.sin(2 * np.pi * (rng.uniform(0.5, 4) * time_N + rng.uniform())), 0, 1) ** 2
            tone_N = 0.3 * swell_N * sum(np.sin(2 * np.pi * pitch_hz * h * time_N) / h for h in (1, 2, 3))
            noise_N = rng.uniform(0.02, 0.2) * swell_N[::-1] * rng.standard_normal(len(time_N))
            yield kind, (noise_N if number % 2 else tone_N).astype(np.float32).clip(-1, 1), 16000


def write_sounds(folder: Path) -> dict[Path, str]:
    """Sixty clips, one with an evil name, and a long file that is several of them one after the other."""
    files: dict[Path, str] = {}
    parts = []
    for number, (kind, samples_N, rate_hz) in enumerate(real_sounds() if SOUNDS.is_dir() else made_sounds()):
        path = folder / kind / f"{kind} {number:02d}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples_N, rate_hz)
        files[path] = kind
        if number % 8 == 0:
            parts.append(samples_N)
    shutil.copy(path, folder / EVIL_NAME)
    files[folder / EVIL_NAME] = EVIL_TAG
    long = folder / "long" / "a walk.flac"
    long.parent.mkdir()
    soundfile.write(long, np.concatenate(parts), rate_hz)
    files[long] = "field"
    return files


@pytest.fixture(scope="session")
def library(tiny_run, tmp_path_factory) -> Library:
    """The sounds in a store, windows of half a second of a model with 16 dimensions."""
    pytest.importorskip("lancedb")
    import clapkit
    from clapkit.search.store import Store
    from clapkit.search.sync import FileVectors, apply_sync, list_files, plan_sync

    folder = tmp_path_factory.mktemp("library")
    files = write_sounds(folder / "sounds")
    clap = clapkit.load(tiny_run.path, device="cpu")
    ids = {"space_id": clap.space_id, "pipeline_id": clap.pipeline_id}
    store = Store.create(folder / "store", dimension=clap.dimension, **ids)
    tag_of = {str(path): tag for path, tag in files.items()}

    def embed(names):
        for result in clap.embed_each(names):
            name = names[result.index]
            lengths_s = [min(result.window_s, result.duration_s - start_s) for start_s in result.starts_s]
            more = {"tags": (tag_of[name],), "metadata": {"licence": "CC0"}}
            yield FileVectors(name, result.windows_WD, result.starts_s, lengths_s, **more)

    listing, _ = list_files(sorted(files))
    report = apply_sync(store.writer(), plan_sync(listing, {}), embed, pipeline_id=clap.pipeline_id)
    assert report.embedded == len(files)
    return Library(folder, files, store, clap)


@pytest.fixture(scope="session")
def open_library(library, serve):
    """`with open_library(api_key=...) as address:` a server of it; other words are limits."""
    from clapkit.server.rows import StoreRows

    return lambda **settings: serve(clap=library.clap, index=StoreRows(library.store), **settings)


@pytest.fixture(scope="module")
def address(open_library):
    """A server of the library."""
    with open_library() as found:
        yield found


# Of a module and not of the session: while it is open, nothing else in this thread can run an event loop.
@pytest.fixture(scope="module")
def browser():
    """Chromium of the system, driven by playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the page is tested with playwright")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser to test the page in: none of {', '.join(BROWSERS)} is on the PATH")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


class Watched:
    """A tab with all that should not happen in it: `errors` of the console, `hosts` that were asked."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.errors: list[str] = []
        self.hosts: set[str] = set()
        page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.hosts.add(request.url.split("/")[2] or request.url.split(":")[0]))


@pytest.fixture
def tab(browser):
    """`tab(width=..., dark=...)`: a new page; in the end, none may have complained or asked another host."""
    opened = []

    def open_tab(*, width=1440, height=900, dark=False, may_complain=False, **more):
        scheme = "dark" if dark else "light"
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, **more)
        context.set_default_timeout(20_000)
        watched = Watched(context.new_page())
        opened.append((context, watched, may_complain))
        return watched.page

    yield open_tab
    for context, watched, may_complain in opened:
        complaints = [] if may_complain else watched.errors
        context.close()
        assert not complaints, complaints
        assert {host.rpartition(":")[0] or host for host in watched.hosts} <= {"127.0.0.1", "blob"}, watched.hosts


@pytest.fixture
def go(tab, address):
    """`go("?q=rain", width=390)`: the page at that address, ready."""

    def open_page(search="", *, at=None, **settings):
        page = tab(**settings)
        page.goto(f"{at or address}/{search}")
        page.wait_for_selector("html[data-ready]")
        return page

    return open_page


@pytest.fixture
def names():
    """`names(page)`: the names in the list of results, as they are shown."""
    return lambda page: page.locator(".row .name").evaluate_all("rows => rows.map(row => row.title)")
