"""clapkit eval suite and compare, from the shell to the files."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import soundfile

from clapkit.api import Clap
from clapkit.cli.suite import _remarks
from clapkit.errors import TextTowerError
from clapkit.evaluation.tasks.collection import ESC50_CLASSES


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    """ESC-50 in the layout of its makers, of which only twelve clips of a third of a second are there."""
    root = tmp_path_factory.mktemp("data")
    folder = root / "ESC-50-master"
    (folder / "audio").mkdir(parents=True)
    (folder / "meta").mkdir()
    rows = ["filename,fold,category,target,esc10,src_file,take"]
    seconds = np.arange(8000 // 3) / 8000
    for number in range(12):
        target = number % 3
        name = f"{number % 2 + 1}-{number // 2}-A-{target}.wav"
        rows.append(f"{name},{number % 2 + 1},{ESC50_CLASSES[target]},{target},True,{number // 2},A")
        tone = 0.3 * np.sin(2 * np.pi * (300 * 4**target + number) * seconds)
        soundfile.write(folder / "audio" / name, tone, 8000)
    (folder / "meta" / "esc50.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def suite_of_run(clapkit, run, data_root, tmp_path_factory):
    out = tmp_path_factory.mktemp("suite") / "out"
    words = ("--tasks", "esc50,fsdd", "--samples", 20, "--baselines")
    outcome = clapkit("eval", "suite", run, "--data-root", data_root, "--out", out, *words)
    assert outcome.exit_code == 0, outcome.output
    return outcome, out


def read(folder):
    return json.loads((folder / "suite.json").read_text(encoding="utf-8"))


def test_a_model_and_both_baselines(clapkit, run, data_root, suite_of_run):
    outcome, out = suite_of_run
    whole = read(out)
    entry = whole["tasks"]["esc50"]
    assert entry["clips"] == 12 and entry["standard"] is False
    assert entry["differences"][0] == "12 clips, published are 2000"
    assert set(entry["folds"]) == {"fold1", "fold2"}
    assert entry["seen_in_training"] is False  # the run wrote down what it heard
    assert whole["model"]["name"] == "run" and whole["model"]["parameters"] > 1000
    assert "no data for the task 'fsdd'" in whole["unopened"]["fsdd"]
    assert "not scored: fsdd" in outcome.stderr and "esc50 *" in outcome.stdout
    assert "* esc50 is not as it was published: 12 clips, published are 2000" in outcome.stderr
    assert "heard in training" not in outcome.stderr
    for name in ("random", "mel-statistics"):
        told = read(out / "baselines" / name)
        assert told["model"]["name"] == f"baseline:{name}"
        assert told["tasks"]["esc50"]["digest"] == entry["digest"]
    nearest = read(out / "baselines" / "mel-statistics")["tasks"]["esc50"]["results"]["nearest-sound"]
    assert nearest["metrics"]["accuracy"]["value"] == 1  # tones of three pitches
    assert "ESC" in (out / "report.html").read_text(encoding="utf-8").upper()


def test_again_nothing_is_embedded(clapkit, run, data_root, suite_of_run, monkeypatch):
    _, out = suite_of_run
    before = read(out)
    monkeypatch.setattr("clapkit.api.Clap.embed_audio", lambda *sources: pytest.fail("it was embedded before"))
    monkeypatch.setattr("clapkit.api.Clap.embed_text", lambda _, texts: texts and pytest.fail("it was embedded before"))
    (out / "suite.json").unlink()
    words = ("--tasks", "esc50,fsdd", "--samples", 20, "--no-report")
    outcome = clapkit("eval", "suite", run, "--data-root", data_root, "--out", out, *words)
    assert outcome.exit_code == 0, outcome.output
    after = read(out)
    assert before.pop("run") != after.pop("run")
    assert before == after


def test_sounds_go_into_the_report_where_that_is_asked(clapkit, data_root, suite_of_run, tmp_path):
    _, out = suite_of_run
    linked = (out / "report.html").read_text(encoding="utf-8")
    assert ".wav" in linked and "base64" not in linked
    words = ("--data-root", data_root, "--out", tmp_path, "--samples", 5, "--copy-sounds")
    outcome = clapkit("eval", "suite", "baseline:random", *words)
    assert outcome.exit_code == 0, outcome.output
    players = re.findall(r'<audio[^>]* src="([^"]{15})', (tmp_path / "report.html").read_text(encoding="utf-8"))
    assert len(players) >= 6 and set(players) == {"data:audio/wav;"}


def test_remarks_tell_what_a_table_cannot(suite_of_run):
    whole = read(suite_of_run[1])
    entry = whole["tasks"]["esc50"]
    # Only three of the fifty classes have clips, so answers are right by accident more often than one in fifty.
    told = [line.split(":")[0] for line in _remarks(whole)]
    assert told == ["controls", "esc50", "* esc50 is not as it was published", "esc50"]
    few = "esc50: intervals and p values rest on 6 recordings or speakers alone, and are too sure of themselves"
    assert _remarks(whole)[3] == few
    entry["recordings"] = 10
    for control in entry["controls"].values():
        control["metrics"]["accuracy"]["chance"] = 0.25
    entry["controls"]["shuffled"]["at_chance"] = False
    entry |= {"standard": True, "seen_in_training": True, "seen_clips": 4}
    whole["tasks"]["later"] = {**entry, "seen_in_training": "unknown", "controls": {}}
    assert _remarks(whole)[1:] == [
        "esc50: its controls belong at 25.0: some classes are more frequent than others",
        "esc50: the control shuffled is off chance: something besides the sound answers",
        "esc50: 4 of its 12 sounds were heard in training",
        "whether those of later were heard in training is not known",
    ]


def test_the_sounds_of_its_own_training_are_known(clapkit, run, world, data_root, tmp_path):
    """A folder of one layout made from the very files of the training."""
    from clapkit.data.manifest import read as read_manifest
    from clapkit.provenance import read_heard

    clips = read_manifest(world, splits={"split": ["train"]}).clips
    heard = read_heard(run)
    assert heard is not None and 0 < len(heard) <= len(clips)
    folder = tmp_path / "instruments"
    (folder / "audio").mkdir(parents=True)
    rows = ["path,label,caption,split"]
    for number, clip in enumerate(clips[:4]):
        shutil.copy(clip.audio, folder / "audio" / f"renamed{number}.wav")
        rows.append(f"audio/renamed{number}.wav,flute,a flute,test")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    words = ("--data-root", tmp_path, "--out", tmp_path / "out", "--samples", 5, "--no-report")
    outcome = clapkit("eval", "suite", run, *words)
    assert outcome.exit_code == 0, outcome.output
    entry = read(tmp_path / "out")["tasks"]["instruments"]
    assert (entry["seen_in_training"], entry["seen_clips"]) == (True, 4)


def test_compare(clapkit, suite_of_run):
    _, out = suite_of_run
    outcome = clapkit("eval", "compare", out / "baselines" / "random", out / "suite.json", "--samples", 50, "--json")
    assert outcome.exit_code == 0, outcome.output
    told = json.loads(outcome.stdout)
    assert (told["a"], told["b"]) == ("baseline:random", "run")
    assert {d["how"] for d in told["differences"]} == {"paired"}
    shown = clapkit("eval", "compare", out / "baselines" / "random", out, "--samples", 50)
    assert "B: run, against A: baseline:random. In %" in shown.stdout and "nearest-sound" in shown.stdout
    assert clapkit("eval", "compare", out, out / "nothing.json").exit_code == 2


def test_what_is_asked_wrongly_is_told(clapkit, tmp_path, data_root):
    empty = tmp_path / "empty"
    empty.mkdir()
    base = ("eval", "suite", "baseline:random")
    outcome = clapkit(*base, "--data-root", empty)
    assert outcome.exit_code == 2
    assert "no data set of a known layout" in outcome.stderr and "- ESC-50" in outcome.stderr
    outcome = clapkit(*base, "--data-root", tmp_path / "absent")
    assert outcome.exit_code == 2 and "is no folder" in outcome.stderr
    outcome = clapkit(*base, "--data-root", data_root, "--tasks", "esc5")
    assert outcome.exit_code == 2 and "did you mean 'esc50'" in outcome.stderr
    outcome = clapkit(*base, "--data-root", data_root, "--tasks", " ,")
    assert outcome.exit_code == 2 and "--tasks is empty" in outcome.stderr
    outcome = clapkit("eval", "suite", "baseline:loud", "--data-root", data_root)
    assert outcome.exit_code == 2 and "no baseline 'loud'" in outcome.stderr
    outcome = clapkit(*base, "--data-root", data_root, "--tasks", "fsdd", "--out", tmp_path / "out")
    assert outcome.exit_code == 2 and "none of the 1 tasks could be scored" in outcome.stderr


@pytest.mark.parametrize("words", [("suite", "--data-root"), ("zero-shot", "--data"), ("audit", "--data")])
def test_a_model_without_language_is_refused_before_anything_is_heard(
    clapkit, run, world, data_root, words, monkeypatch
):
    def speechless(self, texts):
        raise TextTowerError("this model has no text tower: it embeds sound alone")

    def heard(*_, **__):
        raise AssertionError("a sound was embedded")

    monkeypatch.setattr(Clap, "embed_text", speechless)
    monkeypatch.setattr(Clap, "embed_audio", heard)
    verb, option = words
    outcome = clapkit("eval", verb, run, option, data_root if verb == "suite" else world)
    assert outcome.exit_code == 2 and "no text tower" in outcome.stderr, outcome.output


def test_lists_in_another_encoding_cost_their_task_and_no_other(clapkit, data_root, tmp_path):
    """Once a traceback: `UnicodeDecodeError` from the table of ESC-50."""
    root = tmp_path / "data"
    shutil.copytree(data_root, root)
    table = root / "ESC-50-master" / "meta" / "esc50.csv"
    table.write_bytes(table.read_bytes() + "1-9-A-1.wav,1,h\u00e4mmern,1,True,9,A\n".encode("latin-1"))
    for kind in ("music", "speech"):
        folder = root / "music_speech" / f"{kind}_wav"
        folder.mkdir(parents=True)
        for number in range(2):
            soundfile.write(folder / f"{number}.wav", 0.5 * np.sin(np.arange(4000) * 0.1 * (1 + number)), 8000)
    outcome = clapkit("eval", "suite", "baseline:mel-statistics", "--data-root", root, "--out", tmp_path / "out")
    assert outcome.exit_code == 0, outcome.output
    told = " ".join(outcome.stderr.split())
    assert "not scored: esc50:" in told and "esc50.csv: line 14: byte 0xe4 is not UTF-8" in told
    whole = read(tmp_path / "out")
    assert set(whole["unopened"]) == {"esc50", "esc10"} and set(whole["tasks"]) == {"gtzan-music-speech"}
