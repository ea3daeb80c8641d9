"""clapkit eval audit, calibrate, leakage: the figures are those of the functions, and files can be read again."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile

import clapkit as library
from clapkit.data.manifest import read
from clapkit.evaluation.audits.calibration import Calibration, fit_calibration
from clapkit.evaluation.audits.gap import geometry
from clapkit.evaluation.zero_shot import class_vectors, cosines

SPLIT = ("--split", "split=test")


@pytest.fixture(scope="module")
def test_clips(world):
    return read(world, splits={"split": ["test"]}).clips


@pytest.fixture(scope="module")
def vectors(run, test_clips):
    return library.load(run).embed_audio([clip.audio for clip in test_clips])


def test_audit_tells_the_gap_hubs_and_groups(clapkit, run, world, test_clips, vectors, tmp_path):
    by = ("--by", "loudness", "--by", "pitch")
    outcome = clapkit("eval", "audit", run, "--data", world, *SPLIT, *by, "-k", 3, "--json", tmp_path / "audit.json")
    assert outcome.exit_code == 0, outcome.output
    found = json.loads((tmp_path / "audit.json").read_bytes())
    clap = library.load(run)
    text = clap.embed_text([clip.captions[0] for clip in test_clips])
    lies = geometry(vectors, text)
    assert found["geometry"]["alignment"]["value"] == pytest.approx(lies.alignment.value, abs=1e-5)
    assert found["n"] == len(test_clips) and found["pipeline_id"] == clap.pipeline_id
    assert found["hubness"]["k"] == 3 and 0 <= found["hubness"]["robin_hood"]["value"] <= 1
    assert found["subgroups"]["compared"] == len(found["subgroups"]["groups"]) > 3
    assert found["subgroups"]["unknown"]["loudness"] == sum(clip.meta["loudness"] is None for clip in test_clips)
    assert "worst gap first" in outcome.stdout and "alignment" in outcome.stdout
    outcome = clapkit("eval", "audit", run, "--data", world, *SPLIT, "--by", "label", "-k", 3)
    assert outcome.exit_code == 2 and "no group holds at least 2 of 38 clips" in outcome.stderr  # each is there once


def test_calibrate_writes_what_the_function_fits(clapkit, run, world, test_clips, vectors, tmp_path):
    path = tmp_path / "calibration.json"
    outcome = clapkit("eval", "calibrate", run, "--data", world, *SPLIT, "--per-clip", 1, "--out", path)
    assert outcome.exit_code == 0, outcome.output
    names = sorted({clip.label for clip in test_clips})
    text = class_vectors(library.load(run).embed_text, names, ["this is the sound of {}"])
    scores = cosines(vectors, text, rows="", columns="")
    expected = fit_calibration(scores, names, per_clip=1)
    again = Calibration.read(path)
    assert again.prompts == tuple(names)
    assert np.allclose(again(scores), expected(scores), atol=1e-5)
    assert "micro-F1, one threshold" in outcome.stdout


def test_calibrate_needs_prompts(clapkit, run, tmp_path):
    for n in range(2):
        soundfile.write(tmp_path / f"{n}.wav", np.random.default_rng(n).normal(0, 0.1, 16_000), 16_000)
    words = ("--data", tmp_path, "--per-clip", 1, "--out", tmp_path / "c.json")
    outcome = clapkit("eval", "calibrate", run, *words)
    assert outcome.exit_code == 2 and "--labels-file" in outcome.stderr


def test_leakage_names_the_clip(clapkit, tmp_path):
    rng = np.random.default_rng(1)
    for folder in ("train", "test"):
        (tmp_path / folder).mkdir()
    for n in range(3):
        swell = np.interp(np.arange(80_000), np.linspace(0, 80_000, 12), rng.uniform(0.1, 1, 12))
        sound = 0.05 * swell * rng.standard_normal(80_000)
        soundfile.write(tmp_path / "train" / f"known{n}.wav", sound, 16_000)
    soundfile.write(tmp_path / "test" / "cut.flac", sound[20_000:70_000], 16_000)
    soundfile.write(tmp_path / "test" / "new.flac", 0.05 * rng.standard_normal(80_000), 16_000)
    outcome = clapkit(
        "eval", "leakage", "--train", tmp_path / "train", "--test", tmp_path / "test", "--workers", 0,
        "--json", tmp_path / "leakage.json",
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.output
    found = json.loads((tmp_path / "leakage.json").read_bytes())
    assert [("cut" in s["test"], "known2" in s["train"]) for s in found["sounds"]] == [(True, True)]
    assert found["sounds"][0]["offset_s"] == pytest.approx(1.25, abs=0.02)
    told = " ".join(outcome.stdout.split())
    assert "1 of 2 test clips are among the 3 training clips by their sound, 0 more share a part" in told


def test_an_unknown_column_is_refused_before_anything_is_heard(clapkit, world):
    outcome = clapkit("eval", "audit", "no-such-run", "--data", world, "--by", "labl")
    assert outcome.exit_code == 2 and "did you mean 'label'?" in outcome.stderr
