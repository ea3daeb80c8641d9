"""clapkit demo, in its quick form, and the pictures of its report."""

from __future__ import annotations

import io
import json
import re
import struct
import zlib
from xml.etree import ElementTree

import numpy as np
import pytest

from clapkit.cli.demo_figures import curve, heat_map, png, spectrogram_png


@pytest.fixture(scope="module")
def demo(clapkit, tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "demo"
    outcome = clapkit("demo", "--quick", "--out", out)
    assert outcome.exit_code == 0, outcome.output
    return outcome, out


def test_the_demo_leaves_all_its_parts(demo):
    outcome, out = demo
    for part in ("world/manifest.jsonl", "run/model/model.safetensors", "index/index.json", "report.html"):
        assert (out / part).is_file(), part
    scores = json.loads((out / "scores.json").read_bytes())
    assert list(scores) == [
        "new clips of trained kinds", "held-out combinations", "held-out kinds", "retrieval"
    ]  # fmt: skip
    assert "held-out combinations" in outcome.stdout
    assert "a dog barking" in outcome.stdout


def test_the_report_needs_nothing_beside_it(demo):
    page = (demo[1] / "report.html").read_text(encoding="utf-8")
    links = re.findall(r"""(?:src|href)=['"]([^'"]{0,40})""", page) + re.findall(r"url\(([^)]{0,40})", page)
    assert links
    assert all(link.startswith("data:") for link in links)
    assert "http" not in re.sub(r"data:[^'\"]*", "", page)
    assert page.count("<audio") >= 20
    assert "prefers-color-scheme:dark" in page
    assert 'name="viewport"' in page


def test_called_again_it_goes_on(clapkit, demo):
    out = demo[1]
    weights, manifest = out / "run" / "model" / "model.safetensors", out / "world" / "manifest.jsonl"
    before = weights.read_bytes(), manifest.stat().st_mtime_ns
    assert clapkit("demo", "--quick", "--out", out).exit_code == 0
    assert (weights.read_bytes(), manifest.stat().st_mtime_ns) == before


def test_a_folder_with_something_else_in_it_is_left_alone(clapkit, demo, tmp_path):
    (tmp_path / "mine.txt").write_text("precious", encoding="utf-8")
    outcome = clapkit("demo", "--out", tmp_path)
    assert outcome.exit_code == 2
    assert "holds something that is no demo" in outcome.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    assert "a demo of another size" in clapkit("demo", "--out", demo[1]).stderr
    assert "is a file" in clapkit("demo", "--out", tmp_path / "mine.txt").stderr


def read_png(data: bytes) -> np.ndarray:
    """A reader of palette images, written from the format's description."""
    file = io.BytesIO(data)
    assert file.read(8) == b"\x89PNG\r\n\x1a\n"
    chunks = {}
    while head := file.read(8):
        length, name = struct.unpack(">I4s", head)
        chunks[name] = file.read(length)
        assert struct.unpack(">I", file.read(4))[0] == zlib.crc32(name + chunks[name])
    width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, width + 1)
    return np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3)[rows[:, 1:]]


def test_png_is_what_was_drawn():
    rng = np.random.default_rng(0)
    pixels, palette = rng.integers(0, 256, (5, 7), np.uint8), rng.integers(0, 256, (256, 3), np.uint8)
    assert np.array_equal(read_png(png(pixels, palette=palette)), palette[pixels])


def test_spectrogram_has_time_to_the_right_and_high_pitch_at_the_top():
    mel_TF = np.full((9, 4), -80.0)
    mel_TF[2, 3] = 0.0  # early and high
    bright = read_png(spectrogram_png(mel_TF)).sum(axis=2)
    assert bright.shape == (4, 9)
    assert np.argwhere(bright > bright.min()).tolist() == [[0, 2]]


def test_figures_are_well_formed_and_escape_words():
    drawn = heat_map(np.eye(2), rows=["a<b", "c"], columns=["x", "y&z"], cell=20, digits=1, framed=(0, 1))
    tree = ElementTree.fromstring(drawn)
    assert "a<b" in [node.text for node in tree.iter()]
    assert sum("framed" in node.get("class", "") for node in tree) == 2
    line = next(
        n for n in ElementTree.fromstring(curve([1, 2, 3], [3.0, 2.0, 1.0], x_label="x", y_label="y")).iter("polyline")
    )
    heights = [float(point.split(",")[1]) for point in line.get("points").split()]
    assert heights == sorted(heights)  # downwards on the page: the loss falls
