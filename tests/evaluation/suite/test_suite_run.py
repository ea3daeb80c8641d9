"""A suite from data to file: what is in it, what is named, what is not done twice, and what survives a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from suite_toys import MODEL, Knowing, animals_task

from clapkit.errors import AudioError, DataError
from clapkit.evaluation.classifiers.neighbours import Neighbours
from clapkit.evaluation.probe import probe
from clapkit.evaluation.retrieval import retrieval
from clapkit.evaluation.suite import run as suite_run
from clapkit.evaluation.suite.book import headline_of
from clapkit.evaluation.suite.run import run_suite
from clapkit.evaluation.zero_shot import class_vectors, zero_shot
from clapkit.nearest import unit_rows
from clapkit.provenance import file_digest


def run(root, out, tasks, heard=None, model=MODEL, **more):
    heard = heard or Knowing()
    return run_suite(
        heard.embed_audio, heard.embed_text, tasks=tasks, root=root, out=out, model=model, samples=50, **more
    )


def without_run(whole):
    return {key: value for key, value in whole.items() if key != "run"}


def test_scores_are_those_of_the_evaluations(root, tasks, tmp_path):
    heard = Knowing()
    whole = run(root, tmp_path / "out", tasks, heard)
    assert whole == json.loads((tmp_path / "out" / "suite.json").read_text(encoding="utf-8"))
    clips = tasks[0].open(root).clips
    audio = heard.embed_audio([clip.audio for clip in clips])
    labels = [clip.label for clip in clips]
    groups = [clip.meta["recording"] for clip in clips]
    names = sorted(set(labels))
    text = class_vectors(heard.embed_text, names, ["this is the sound of {}"])
    told = zero_shot(audio, labels, names, text, groups=groups, samples=50).to_json()
    entry = whole["tasks"]["animals"]
    assert entry["results"]["zero-shot"]["metrics"] == told["metrics"]
    assert entry["results"]["zero-shot"]["per_class"] == told["per_class"]
    assert entry["results"]["zero-shot"]["pipeline_id"] == MODEL.pipeline_id
    assert 0.3 < told["metrics"]["accuracy"]["value"] < 1
    owners = [n for n in range(40) for _ in range(2)]
    captions = [text for clip in clips for text in clip.captions]
    found = retrieval(audio, heard.embed_text(captions), owners, groups=groups, samples=50).to_json()
    results = whole["tasks"]["animal-captions"]["results"]
    assert results["retrieval"]["metrics"] == found["metrics"]
    assert results["retrieval-same-words"]["protocol"]["duplicates"] == "relevant"
    assert set(whole["tasks"]["scenes"]["results"]) == {"zero-shot", "zero-shot-ensemble", "label-search"}
    assert set(whole["tasks"]["scenes"]["results"]["zero-shot"]["metrics"]) == {"map"}


def test_an_entry_says_what_was_scored(root, tasks, tmp_path):
    whole = run(root, tmp_path / "out", tasks)
    entry = whole["tasks"]["animals"]
    assert (entry["standard"], entry["differences"], entry["clips"], entry["recordings"]) == (True, [], 40, 20)
    assert entry["splits"] == {"fold1": 24, "fold2": 16}
    assert entry["classes"] == ["cat", "cow", "dog", "hen"]
    assert entry["results"]["zero-shot"]["protocol"]["interval"]["resampled"] == "recordings"
    assert entry["results"]["zero-shot-ensemble"]["protocol"]["templates"][1] == "I can hear {}"
    assert {fold: told["n"] for fold, told in entry["folds"].items()} == entry["splits"]
    by_fold = sum(told["n"] * told["metrics"]["accuracy"]["value"] for told in entry["folds"].values()) / 40
    assert by_fold == pytest.approx(entry["results"]["zero-shot"]["metrics"]["accuracy"]["value"])
    assert headline_of(entry)[:2] == ("zero-shot", "accuracy")
    assert headline_of(whole["tasks"]["animal-captions"])[:2] == ("retrieval", "r@1_text_to_audio")
    assert "a folder named absent (a page)" in whole["unopened"]["absent"]
    assert set(whole["tasks"]) == {"animals", "animal-captions", "scenes"}
    assert whole["tasks"]["scenes"]["recordings"] is None
    assert whole["tasks"]["scenes"]["results"]["zero-shot"]["protocol"]["interval"]["resampled"] == "clips"


def test_controls_lie_at_chance_and_the_scores_do_not(root, tasks, tmp_path):
    whole = run(root, tmp_path / "out", tasks)
    for name in ("animals", "animal-captions"):
        entry = whole["tasks"][name]
        _, metric, score = headline_of(entry)
        assert score["low"] > score["chance"]
        for control in entry["controls"].values():
            assert control["at_chance"], (name, metric, control)
    other = run(root, tmp_path / "other", tasks, seed=1)
    assert other["tasks"]["animals"]["controls"] != whole["tasks"]["animals"]["controls"]


def test_arrays_for_pictures(root, tasks, tmp_path):
    run(root, tmp_path / "out", tasks)
    with np.load(tmp_path / "out" / "arrays" / "animals.npz") as arrays:
        assert arrays["audio_ND"].shape == (40, 16) and arrays["audio_ND"].dtype == np.float16
        assert np.linalg.norm(arrays["text_MD"].astype(np.float32), axis=1) == pytest.approx(1, abs=1e-3)
        assert arrays["names"][0] == "animals/cat-00.bin"
        assert arrays["texts"].tolist() == ["cat", "cow", "dog", "hen"]
        assert arrays["labels"][-1] == "hen" and arrays["confusion_CC"].sum() == 40
    with np.load(tmp_path / "out" / "arrays" / "animal-captions.npz") as arrays:
        assert arrays["owners"].tolist() == [n for n in range(40) for _ in range(2)]
        assert arrays["texts"][:2].tolist() == ["a cat", "cat cat-00"]
    with np.load(tmp_path / "out" / "arrays" / "scenes.npz") as arrays:
        assert arrays["relevant_NC"].sum(axis=1).tolist() == [1, 2, 2, 2, 2, 1, 2, 2, 2, 2, 1, 2, 2, 2, 2, 1]


def test_the_second_run_embeds_nothing_and_writes_the_same(root, tasks, tmp_path):
    first, second, third = Knowing(), Knowing(), Knowing()
    before = run(root, tmp_path / "out", tasks, first)
    arrays = {path: path.read_bytes() for path in (tmp_path / "out").glob("[ao]*/*.npz")}
    assert len(arrays) == 6 and len(first.sounds) == 56 and len(first.texts) == len(set(first.texts))
    again = run(root, tmp_path / "out", tasks, second)
    assert without_run(again) == without_run(before)
    assert (second.sounds, second.texts) == ([], [])
    shutil.rmtree(tmp_path / "out" / "arrays")
    (tmp_path / "out" / "suite.json").unlink()
    afresh = run(root, tmp_path / "out", tasks, third)
    assert json.dumps(without_run(afresh)) == json.dumps(without_run(before))
    assert (third.sounds, third.texts) == ([], [])
    assert {path: path.read_bytes() for path in (tmp_path / "out").glob("[ao]*/*.npz")} == arrays
    elsewhere = run(root, tmp_path / "elsewhere", tasks[::-1])
    assert json.dumps(without_run(elsewhere)) == json.dumps(without_run(before))


def test_a_changed_file_a_changed_task_and_other_settings_are_scored_again(root, tasks, tmp_path):
    before = run(root, tmp_path / "out", tasks[:1])
    (root / "animals" / "cat-00.bin").write_bytes(b"another cat")
    heard = Knowing()
    run(root, tmp_path / "out", tasks[:1], heard)
    assert heard.sounds == ["cat-00"]
    newer = run(root, tmp_path / "out", (animals_task(version=2),))
    assert newer["tasks"]["animals"]["version"] == 2
    other = run(root, tmp_path / "out", tasks[:1], seed=5)
    assert other["protocol"]["seed"] == 5
    assert other["tasks"]["animals"]["controls"] != before["tasks"]["animals"]["controls"]


def test_probes_are_added_where_they_are_asked_for_and_stay(root, tasks, tmp_path):
    pytest.importorskip("sklearn")
    knowing = Knowing(noise=1.0)

    def animals(**more):
        whole = run(root, tmp_path / "out", tasks[:2], knowing, **more)
        assert "probes_left_out" not in whole["tasks"]["animal-captions"]
        return json.loads(json.dumps(whole["tasks"]["animals"]))

    plain = animals()
    probed = animals(probes=True)
    asked, calls = probed.pop("probes_left_out"), knowing.calls
    added = {name: probed["results"].pop(name) for name in ("linear-probe", "neighbours-probe", "few-shot-probe")}
    outcomes = probed.pop("outcomes")
    assert {**probed, "outcomes": plain["outcomes"]} == plain and asked == {}
    more = {"results": {**plain["results"], **added}, "outcomes": outcomes, "probes_left_out": {}}
    assert animals() == {**plain, **more}
    assert knowing.calls == calls
    vectors = np.load(tmp_path / "out" / "arrays" / "animals.npz")
    audio = unit_rows(vectors["audio_ND"].astype(np.float32), what="audio")
    folds = [f"fold{int(name[-6:-4]) // 2 % 2 + 1}" for name in vectors["names"]]
    slow = probe(audio, vectors["labels"].tolist(), folds, classifier=Neighbours(), samples=50)
    found = added["neighbours-probe"]["metrics"]
    assert found["accuracy"]["value"] == pytest.approx(slow.metrics["accuracy"].value, abs=0.03)
    assert found["accuracy"]["value"] > 0.5 > found["shuffled_labels"]["value"]
    assert added["few-shot-probe"]["protocol"]["shots"] == 5
    assert added["linear-probe"]["pipeline_id"] == MODEL.pipeline_id


def test_a_probe_that_cannot_be_made_says_why(root, tasks, tmp_path):
    pytest.importorskip("sklearn")
    for path in (root / "animals").glob("cat-0[2-9].bin"):
        path.unlink()  # two cats are left, both of one fold
    whole = run(root, tmp_path / "out", tasks[:1], probes=True)
    entry = whole["tasks"]["animals"]
    assert set(entry["probes_left_out"]) == {"few-shot-probe"} and "linear-probe" in entry["results"]
    assert "'cat': 2" in entry["probes_left_out"]["few-shot-probe"]


def test_tasks_of_earlier_runs_stay(root, tasks, tmp_path):
    run(root, tmp_path / "out", tasks[:1])
    whole = run(root, tmp_path / "out", tasks[2:3])
    assert list(whole["tasks"]) == ["animals", "scenes"]


def test_broken_sounds_are_named_and_the_rest_is_scored(root, tasks, tmp_path):
    heard = Knowing(broken=("cat-03", "hen-09"))
    entry = run(root, tmp_path / "out", tasks[:1], heard)["tasks"]["animals"]
    assert entry["clips"] == 38 and entry["standard"] is False
    assert entry["differences"] == ["2 sounds cannot be used: cat-03.bin (no sound in it), hen-09.bin (no sound in it)"]
    assert heard.calls == 3  # with the broken ones, without them, and those once more
    again = Knowing(broken=("cat-03", "hen-09"))
    assert run(root, tmp_path / "out", tasks[:1], again)["tasks"]["animals"] == entry
    assert again.sounds == []  # nothing besides the broken ones was asked
    healed = run(root, tmp_path / "out", tasks[:1], mended := Knowing())["tasks"]["animals"]
    assert (mended.sounds, healed["clips"], healed["standard"]) == (["cat-03", "hen-09"], 40, True)
    whole = run(root, tmp_path / "none", tasks[:3], Knowing(broken=tuple(f.stem for f in root.glob("scenes/*"))))
    assert "none of its 16 sounds can be used: cat+cat.bin: no sound in it" in whole["unopened"]["scenes"]
    assert set(whole["tasks"]) == {"animals", "animal-captions"}


def test_what_fails_once_is_tried_again(root, tasks, tmp_path):
    heard = Knowing(broken=("cow-01", "dog-02"))
    late = iter([None, None])

    def embed_audio(sources):
        if next(late, "later") == "later":
            heard.broken = ("dog-02",)
        return heard.embed_audio(sources)

    whole = run_suite(
        embed_audio, heard.embed_text, tasks=tasks[:1], root=root, out=tmp_path / "out", model=MODEL, samples=5
    )
    assert whole["tasks"]["animals"]["differences"] == ["1 sounds cannot be used: dog-02.bin (no sound in it)"]


def test_a_model_that_says_only_that_a_sound_is_broken(root, tasks, tmp_path):
    heard = Knowing()

    def embed_audio(sources):
        if any("dog-05" in source for source in sources):
            raise AudioError("a sound", "it is none")
        return heard.embed_audio(sources)

    whole = run_suite(
        embed_audio, heard.embed_text, tasks=tasks[:1], root=root, out=tmp_path / "out", model=MODEL, samples=5
    )
    assert whole["tasks"]["animals"]["differences"] == ["1 sounds cannot be used: dog-05.bin (it is none)"]
    assert whole["tasks"]["animals"]["clips"] == 39


@pytest.mark.parametrize(("value", "why"), [(np.nan, "not finite"), (np.inf, "not finite"), (0.0, "zero")])
def test_vectors_that_are_no_directions_name_the_clip(root, tasks, tmp_path, value, why):
    heard = Knowing()

    def embed_audio(sources):
        vectors = heard.embed_audio(sources)
        vectors[7] = value
        return vectors

    with pytest.raises(DataError, match=f"cannot be scored:\n  - cat-07.bin: {why}"):
        run_suite(embed_audio, heard.embed_text, tasks=tasks, root=root, out=tmp_path / "out", model=MODEL)
    with pytest.raises(DataError, match=f"'this is the sound of cat': {why}"):
        run_suite(
            heard.embed_audio,
            lambda texts: np.full((len(texts), 16), value, np.float32),
            tasks=tasks,
            root=root,
            out=tmp_path / "texts",
            model=MODEL,
        )


def test_an_array_of_another_shape_is_refused(root, tasks, tmp_path):
    with pytest.raises(DataError, match=r"shape \(3, 16\) and type float64 for 40 items"):
        run_suite(lambda s: np.ones((3, 16)), Knowing().embed_text, tasks=tasks, root=root, out=tmp_path, model=MODEL)


def test_without_tasks_and_in_the_folder_of_another_model(root, tasks, tmp_path):
    with pytest.raises(DataError, match="no task to run on"):
        run(root, tmp_path / "out", ())
    run(root, tmp_path / "out", tasks[:1])
    with pytest.raises(DataError, match=r"of knowing \(space-1.*\), not of other \(space-2"):
        run(root, tmp_path / "out", tasks[:1], model=replace(MODEL, name="other", pipeline_id="space-2"))


def test_whether_training_saw_the_sounds(root, tasks, tmp_path):
    def seen(known, out):
        entry = run(root, tmp_path / out, tasks[:1], model=replace(MODEL, trained_on=known))["tasks"]["animals"]
        return entry["seen_in_training"], entry["seen_clips"]

    clips = tasks[0].open(root).clips
    assert seen(None, "a") == ("unknown", None)
    assert seen(frozenset({file_digest(clips[3]), "0" * 16}), "b") == (True, 1)
    assert seen(frozenset({"0" * 16}), "c") == (False, 0)


def test_progress_and_what_each_task_came_to(root, tasks, tmp_path):
    told, done = [], []
    run(
        root,
        tmp_path / "out",
        tasks,
        progress=lambda *step: told.append(step),
        on_task=lambda name, entry, why: done.append((name, entry is not None, why is not None)),
    )
    assert ("animals: sounds", 40, 40) in told and ("animals: scores", 0, 1) in told
    assert done[0] == ("animals", True, False) and done[-1] == ("absent", False, True)


def test_damaged_vectors_are_made_anew(root, tasks, tmp_path):
    before = run(root, tmp_path / "out", tasks[:1])
    (path,) = (tmp_path / "out" / "vectors").glob("*/sounds-animals/*.npz")
    path.write_bytes(path.read_bytes()[:100])
    (tmp_path / "out" / "suite.json").unlink()
    heard = Knowing()
    after = run(root, tmp_path / "out", tasks[:1], heard)
    assert len(heard.sounds) == 40 and without_run(after) == without_run(before)


_SLOW = """
import sys, time
from pathlib import Path
sys.path.insert(0, {here!r})
import suite_toys as c
from clapkit.evaluation.suite import vectors
from clapkit.evaluation.suite.run import run_suite
vectors.CLIPS_AT_ONCE = 5
heard = c.Knowing()
def slowly(sources):
    time.sleep(0.05)
    return heard.embed_audio(sources)
places = dict(root=Path({root!r}), out=Path({out!r}))
run_suite(slowly, heard.embed_text, tasks=c.all_tasks(), model=c.MODEL, samples=50, **places)
"""


def test_killed_at_any_moment_it_ends_with_the_same_file(root, tasks, tmp_path, monkeypatch):
    expected = without_run(run(root, tmp_path / "whole", tasks))
    out = tmp_path / "killed"
    program = _SLOW.format(here=str(Path(__file__).parent), root=str(root), out=str(out))
    kept = 0
    for chunks in (2, 5, 9):
        process = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "OMP_NUM_THREADS": "1"})
        began = time.monotonic()
        while len(list(out.glob("vectors/*/*/*.npz"))) < chunks and time.monotonic() - began < 60:
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.002)
        process.kill()
        process.wait()
        assert process.returncode == (1 if os.name == "nt" else -signal.SIGKILL)
        kept = len(list(out.glob("vectors/*/sounds-*/*.npz")))
    heard = Knowing()
    monkeypatch.setattr("clapkit.evaluation.suite.vectors.CLIPS_AT_ONCE", 5)
    assert without_run(run(root, out, tasks, heard)) == expected
    assert kept >= 5 and 56 - 5 * kept <= len(heard.sounds) <= 56 - 5 * (kept - 1)
    assert expected["protocol"]["suite"] == suite_run.SUITE_VERSION
