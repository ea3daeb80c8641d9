"""Two suites: differences against slow references, what is compared unpaired, what is not compared at all."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from suite_toys import MODEL, Knowing, animals_task, read_animals

from clapkit.errors import DataError
from clapkit.evaluation.suite.compare import compare
from clapkit.evaluation.suite.run import run_suite
from clapkit.evaluation.task import Layout, Read


def scored(heard, root, out, tasks, name="knowing", **more):
    model = replace(MODEL, name=name, pipeline_id=f"space-{name}")
    run_suite(heard.embed_audio, heard.embed_text, tasks=tasks, root=root, out=out, model=model, samples=50, **more)
    return out


@pytest.fixture
def suites(root, tasks, tmp_path):
    """A worse and a better model."""
    worse = scored(Knowing(noise=4.0), root, tmp_path / "worse", tasks, "worse")
    return worse, scored(Knowing(noise=1.5), root, tmp_path / "better", tasks, "better")


def found(comparison, task, metric, result=None):
    wanted = [d for d in comparison.differences if (d.task, d.metric) == (task, metric) and result in (None, d.result)]
    return wanted[0]


def change(path, **changes):
    whole = json.loads((path / "suite.json").read_text(encoding="utf-8"))
    for where, value in changes.items():
        *parents, last = where.split("__")
        inner = whole
        for parent in parents:
            inner = inner[parent]
        inner[last] = value
    (path / "suite.json").write_text(json.dumps(whole), encoding="utf-8")


def test_paired_differences_against_a_slow_reference(suites):
    a, b = suites
    comparison = compare(a, b / "suite.json", samples=400)
    assert (comparison.a, comparison.b, dict(comparison.left), comparison.notes) == ("worse", "better", {}, ())
    kept = [np.load(folder / "outcomes" / "animals.npz") for folder in (a, b)]
    gain = kept[1]["zero-shot.hits"].astype(float) - kept[0]["zero-shot.hits"]
    groups = kept[0]["groups"]
    d = found(comparison, "animals", "accuracy", "zero-shot")
    assert d.how == "paired" and d.difference == pytest.approx(gain.mean()) and d.b - d.a == pytest.approx(d.difference)
    rng = np.random.default_rng(5)
    recordings = [gain[groups == g] for g in range(20)]
    means = [np.concatenate([recordings[i] for i in rng.integers(20, size=20)]).mean() for _ in range(4000)]
    assert (d.low, d.high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.03)
    swapped = [abs(sum(rng.choice((-1, 1)) * r.sum() for r in recordings)) >= abs(gain.sum()) for _ in range(4000)]
    assert d.p == pytest.approx(np.mean(swapped), abs=0.03)
    assert found(comparison, "animals", "map").p is None
    assert found(comparison, "animals", "macro_accuracy").p == pytest.approx(d.p, abs=0.03)  # classes of one size
    assert {d.how for d in comparison.differences} == {"paired"}
    assert found(comparison, "animal-captions", "r@1_text_to_audio", "retrieval-same-words").p is not None
    assert found(comparison, "animals", "accuracy", "nearest-sound").p is not None
    assert found(comparison, "animal-captions", "r@1_text_to_audio", "retrieval").how == "paired"


def test_probes_are_compared_clip_by_clip(root, tasks, tmp_path):
    pytest.importorskip("sklearn")
    how = {"tasks": tasks[:1], "probes": True}
    a = scored(Knowing(noise=4.0), root, tmp_path / "a", name="a", **how)
    b = scored(Knowing(noise=1.5), root, tmp_path / "b", name="b", **how)
    comparison = compare(a, b, samples=400)
    probes = [d for d in comparison.differences if "probe" in d.result]
    assert len(probes) == 3 + 3 + 4 and {d.how for d in probes} == {"paired"} and comparison.notes == ()
    kept = [np.load(folder / "outcomes" / "animals.npz") for folder in (a, b)]
    groups, folds = kept[0]["groups"], kept[0]["folds"]
    rng = np.random.default_rng(5)
    for name, tested in (("neighbours-probe", folds >= 0), ("few-shot-probe", folds == folds.max())):
        gain = kept[1][f"{name}.hits"] - kept[0][f"{name}.hits"]
        assert np.array_equal(np.isfinite(gain), tested)
        d = found(comparison, "animals", "accuracy", name)
        by_fold = [gain[tested & (folds == fold)].mean() for fold in np.unique(folds[tested])]
        assert d.difference == pytest.approx(np.mean(by_fold)) and d.b - d.a == pytest.approx(d.difference)
        recordings = [np.flatnonzero(tested & (groups == g)) for g in np.unique(groups[tested])]
        means = []
        for _ in range(2000):
            rows = np.concatenate([recordings[i] for i in rng.integers(len(recordings), size=len(recordings))])
            means.append(np.mean([gain[rows[folds[rows] == fold]].mean() for fold in np.unique(folds[rows])]))
        assert (d.low, d.high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.05)
        assert 0 < d.p <= 1


def test_other_folds_are_not_paired(root, tasks, tmp_path):
    pytest.importorskip("sklearn")
    a = scored(Knowing(), root, tmp_path / "a", tasks[:1], "a", probes=True)

    def halves(folder):
        clips = [clip.with_(split=f"fold{1 + (n > 19)}") for n, clip in enumerate(read_animals(folder).clips)]
        return Read(tuple(clips))

    other = animals_task(layout=Layout("animals", ("animals",), halves, "nowhere", "CC0"))
    b = scored(Knowing(), root, tmp_path / "b", (other,), "b", probes=True)
    comparison = compare(a, b, samples=20)
    assert comparison.notes == ("animals: unpaired, since folds differ between the two",)
    assert {d.how for d in comparison.differences} == {"unpaired"}


def test_a_list_in_another_order_is_paired_all_the_same(root, tasks, tmp_path):
    a = scored(Knowing(), root, tmp_path / "a", tasks[:2], "a")

    def backwards(folder):
        return Read(read_animals(folder).clips[::-1])

    changed = {"layout": Layout("animals", ("animals",), backwards, "nowhere", "CC0")}
    b = scored(Knowing(), root, tmp_path / "b", tuple(replace(task, **changed) for task in tasks[:2]), "b")
    for d in compare(a, b, samples=20).differences:
        assert (d.how, d.difference, d.low, d.high) == ("paired", 0, 0, 0) and d.p in (None, 1.0)


def test_a_model_against_itself_does_not_differ(suites):
    for d in compare(suites[0], suites[0], samples=50).differences:
        assert d.difference == 0
        if d.how == "paired":
            assert (d.low, d.high) == (0, 0) and d.p in (None, 1.0)


def test_without_outcomes_the_interval_is_the_conservative_one(suites):
    a, b = suites
    paired = compare(a, b, samples=200)
    (b / "outcomes" / "animals.npz").write_bytes(b"changed")
    unpaired = compare(a, b, samples=200)
    assert unpaired.notes == ("animals: unpaired, since the outcomes of better are absent or changed",)
    narrow, wide = (found(c, "animals", "accuracy", "zero-shot") for c in (paired, unpaired))
    assert (wide.how, wide.p, wide.difference) == ("unpaired", None, narrow.difference)
    assert wide.low <= narrow.low and wide.high >= narrow.high
    scores = [
        json.loads((folder / "suite.json").read_text(encoding="utf-8"))["tasks"]["animals"]["results"]["zero-shot"]
        for folder in (a, b)
    ]
    first, second = (told["metrics"]["accuracy"] for told in scores)
    assert (wide.low, wide.high) == (second["low"] - first["high"], second["high"] - first["low"])


def test_only_what_is_the_same_is_compared(suites, root, tmp_path):
    a, b = suites
    change(b, tasks__animals__version=9, tasks__scenes__digest="0" * 64)
    comparison = compare(a, b, samples=20)
    assert comparison.left["animals"] == "other versions of the task: 1 and 9"
    assert comparison.left["scenes"].startswith("other clips or answers: ")
    assert {d.task for d in comparison.differences} == {"animal-captions"}
    fewer = scored(Knowing(), root, tmp_path / "fewer", (animals_task(),), "fewer")
    assert compare(a, fewer, samples=20).left["scenes"] == "not scored for fewer"
    change(b, protocol__suite="clapkit-suite-0")
    assert "suite is 'clapkit-suite-3' and 'clapkit-suite-0'" in compare(a, b, samples=20).left["animal-captions"]


def test_models_of_one_name_are_told_apart_by_their_files(suites):
    a, b = suites
    change(b, model__name="worse")
    comparison = compare(a, b, samples=20)
    assert (comparison.a, comparison.b) == (str(a / "suite.json"), str(b / "suite.json"))


def test_table_and_json(suites):
    from rich.console import Console

    comparison = compare(*suites, samples=50)
    told = comparison.to_json()
    assert json.loads(json.dumps(told))["differences"][0].keys() >= {"task", "low", "high", "p", "how"}
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(comparison.table())
    shown = console.export_text()
    assert "B: better, against A: worse. In %" in shown and "zero-shot" in shown
    assert shown.count("unpaired") == sum(d.how == "unpaired" for d in comparison.differences)
    told = [f"{d.p:.3f}" for d in comparison.differences if d.p is not None]
    assert told and all(p in shown for p in told)


@pytest.mark.parametrize("text", ["{", "[]", '{"format_version": 7}', '{"format_version": 1, "tasks": {}}'])
def test_other_files_are_refused(tmp_path, suites, text):
    path = tmp_path / "odd.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"odd\.json (cannot be read|is no result)"):
        compare(path, suites[0])


@pytest.mark.parametrize(("recordings", "told"), [(2, True), (9, True), (10, False), (None, False)])
def test_few_recordings_are_told(suites, recordings, told):
    for folder in suites:
        change(folder, tasks__animals__recordings=recordings)
    notes = compare(*suites, samples=5).notes
    assert [
        note for note in notes if note.startswith(f"animals: intervals and p values rest on {recordings} ")
    ] == list(notes)
    assert bool(notes) is told
