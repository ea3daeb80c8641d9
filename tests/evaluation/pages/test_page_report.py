from __future__ import annotations

import re
import time
from html.parser import HTMLParser

import numpy as np
import pytest
from suite_on_disk import ESC50, HOSTILE

from clapkit import bridge
from clapkit.errors import DataError
from clapkit.evaluation.classifiers.neighbours import Neighbours
from clapkit.evaluation.pages.examples import searches
from clapkit.evaluation.pages.read import read_suite
from clapkit.evaluation.pages.report import write_report
from clapkit.evaluation.probe import probe

VOID = {"meta", "br", "link", "img", "input"}


class Page(HTMLParser):
    """A written page: which elements it has, whether they are closed in order, and its words."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.html, self.open, self.elements, self.words, self.wrong = html, [], [], "", []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append((tag, self.getpos()))

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words += data.replace("\u00a0", " ")

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def written(suite):
    def write(**how) -> Page:
        path = suite.folder / "report.html"
        write_report(suite.write(), path, **how)
        page = Page(path.read_text(encoding="utf-8"))
        assert (page.open, page.wrong) == ([], [])
        ids = [a["id"] for _, a in page.elements if "id" in a]
        assert len(ids) == len(set(ids))
        links = {a["href"][1:] for a in page.all("a")}
        assert links <= set(ids)
        return page

    return write


def test_the_page_says_what_was_measured(suite, written):
    result = suite.add_classes("toy", ["dog", "rain", "bell"], per_class=10, noise=3.0)
    suite.whole["unopened"] = {"gone-task": "no folder named <gone>"}
    page = written()
    score = result.metrics["accuracy"]
    assert f"{100 * score.value:.1f} %" in page.words
    assert f"95 % interval {100 * score.low:.1f} to {100 * score.high:.1f}, chance 33.3 %, 30 clips" in page.words
    for said in ("space-0123456789abcdef", "space-01234567/x/fp32", "clapkit-eval-1", "no folder named <gone>", "here"):
        assert said in page.words
    assert "0" * 64 not in page.words  # fingerprints are for resuming
    for heading in ("What is taken for what", "Class by class", "Texts of the classes", "Search by text",
                    "Sounds and texts in one space", "How sure, and how right"):  # fmt: skip
        assert heading in page.words
    assert "Not shown" not in page.words


def test_every_row_of_a_table_has_as_many_cells_as_its_head(suite, written):
    suite.add_classes("a", ["dog", "rain"])
    suite.add_captions("c", clips=12)
    suite.whole["tasks"]["a"]["folds"] = {
        "fold1": {"n": 8, "metrics": suite.whole["tasks"]["a"]["results"]["zero-shot"]["metrics"]}
    }
    suite.whole["tasks"]["empty"] = {"results": {}}
    tables = re.findall(r"<table>(.*?)</table>", written().html)
    assert len(tables) == 4
    for table in tables:
        rows = re.findall(r"<tr[^>]*>(.*?)</tr>", table)
        widths = {
            len(re.findall(r"<t[hd][ >]", row)) + sum(int(n) - 1 for n in re.findall(r'colspan="(\d+)"', row))
            for row in rows
        }
        assert len(widths) == 1


def test_probes_stand_with_their_controls_and_their_folds(suite, written):
    suite.add_classes("a", ["dog", "rain"], per_class=20)
    rng = np.random.default_rng(0)
    truth = np.arange(40) % 2
    vectors, labels = (
        rng.standard_normal((2, 8))[truth] + rng.standard_normal((40, 8)),
        [("dog", "rain")[t] for t in truth],
    )
    folds = [f"fold{n // 20}" for n in range(40)]
    result = probe(vectors, labels, folds, classifier=Neighbours(3), samples=20)
    suite.whole["tasks"]["a"]["results"]["neighbours-probe"] = result.to_json()
    page = written()
    table = re.search(r"Scores of probes in each fold.*?<tbody>(.*?)</tbody>", page.html)[1]
    rows = [re.sub(r"<[^>]+>", " ", row).replace("\u00a0", " ").split() for row in table.split("</tr>")[:-1]]
    told = result.protocol["folds"]
    assert [row[:3] for row in rows] == [[name, "20", f"{100 * one['accuracy']:.1f}"] for name, one in told.items()]
    assert all(row[4] == "Neighbours(k=3)" for row in rows)
    assert page.words.count("Neighbours(k=3)") == 3  # each fold, and the protocol: its folds are not told again there
    control = re.search(r'<tr class="checked"><th[^>]*>shuffled labels<small><bdi>(.*?)</bdi>', page.html)
    assert control[1] == "control: neighbours-probe"
    suite.whole["tasks"]["a"]["results"]["neighbours-probe"]["protocol"]["folds"] = {"fold0": 3, "fold1": None}
    assert "Probes, fold by fold" not in written().words


def test_differences_and_training_are_told(suite, written):
    suite.add_classes("a", ["dog", "rain"], standard=False, differences=["3 clips, published are 4"])
    suite.whole["tasks"]["a"]["seen_in_training"] = True
    page = written()
    for said in ("not standard", "3 clips, published are 4", "training saw this set"):
        assert said in page.words


def test_a_control_away_from_chance_is_marked(suite, written):
    suite.add_classes("a", ["dog", "rain"], per_class=20)
    assert "off chance" not in written().words
    suite.whole["tasks"]["a"]["controls"]["shuffled"]["at_chance"] = False
    assert "shuffled off chance" in written().words


def test_controls_with_a_chance_of_their_own_say_it(suite, written):
    """Of 30 clips 20 are dogs, and so are 24 answers: by accident 24/30 * 20/30 + 6/30 * 10/30 are right."""
    suite.add_classes("even", ["dog", "rain"])
    assert "of its controls" not in written().words
    suite.add_classes("uneven", ["dog", "rain"])
    accident = 24 / 30 * 20 / 30 + 6 / 30 * 10 / 30
    for control in suite.whole["tasks"]["uneven"]["controls"].values():
        control["metrics"]["accuracy"]["chance"] = accident
    page = written()
    assert page.html.count("<small>chance 60.0\u00a0%</small>") == 1
    assert "given as the chance of its controls" in page.words
    value = suite.whole["tasks"]["uneven"]["results"]["zero-shot"]["metrics"]["accuracy"]["value"]
    assert f"uneven {100 * (value - accident) / (1 - accident):.1f} %" in page.words


def test_each_kind_has_its_own_figures(suite, written):
    suite.add_captions("c", clips=12)
    words = written().words
    assert "Search by text" in words
    for heading in ("What is taken for what", "Class by class", "How sure", "Not shown"):
        assert heading not in words
    suite.whole["tasks"].clear()
    suite.add_tags("t", ["dog", "rain", "bell"])
    words = written().words
    assert "Average precision of ranking all clips" in words
    for heading in ("What is taken for what", "How sure", "Not shown"):
        assert heading not in words


def test_the_gap_is_that_of_the_bridge(suite, written):
    suite.add_captions("c", clips=30, captions=2)
    page = written()
    arrays = read_suite(suite.folder / "suite.json").tasks[0].arrays
    gap = bridge.measure(arrays.audio_ND[arrays.owners], arrays.text_MD)
    assert f"distance of the centres{gap.distance:.3f}" in page.words
    assert f"mean cosine of a pair{gap.cosine:.3f}" in page.words


def test_hostile_names_stay_text(suite, written):
    suite.whole["model"]["name"] = HOSTILE[0]
    suite.add_classes("task", list(HOSTILE), per_class=6, differences=[HOSTILE[0], HOSTILE[4]], standard=False)
    suite.whole["tasks"]['</script><b> \0"'] = suite.whole["tasks"]["task"]
    suite.whole["tasks"]["task"]["licence"] = {HOSTILE[0]: [HOSTILE[1], True, 3, 0.25]}
    suite.whole["run"]["host"] = HOSTILE[1]
    page = written()
    assert [a for a in page.all("script") if a.get("type") != "application/json"] == [{}]
    assert not page.all("b") or all(set(a) <= {"style"} for a in page.all("b"))
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    for name in HOSTILE:
        assert name in page.words
    assert page.words.count('</script><b> \ufffd"') >= 3  # table, contents and heading
    told = [t for t, a in page.elements if t == "bdi"]
    assert len(told) > 20


def test_a_page_needs_no_other_host_and_says_so_to_the_browser(suite, written):
    suite.add_classes("toy", ["dog", "rain"])
    page = written()
    assert not re.findall(r"https?:", page.html)
    assert not page.all("link") + page.all("img") + page.all("iframe")
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'")


def test_sounds_are_linked_or_copied_or_said_to_be_missing(suite, written):
    suite.add_classes("toy", ["dog", "rain"], per_class=3)
    assert "was not found" in written().words
    suite.sounds([f"toy/{n}.wav" for n in range(6)])
    page = written()
    assert {a["src"] for a in page.all("audio")} <= {f"data/toy/{n}.wav" for n in range(6)}
    assert all(a["aria-label"] and a["preload"] == "none" for a in page.all("audio"))
    assert all(a["src"].startswith("data:audio/wav") for a in written(copy_sounds=True).all("audio"))
    elsewhere = suite.folder / "elsewhere"
    suite.data.rename(elsewhere)
    assert not written().all("audio")
    assert written(data_root=elsewhere).all("audio")


def test_what_is_absent_is_told_and_never_an_error(suite, written):
    suite.add_classes("vectors-gone", ["dog", "rain"])
    suite.add_classes("bare", ["dog", "rain"])
    suite.add_tags("tags", ["dog", "rain", "bell"])
    (suite.folder / "arrays" / "vectors-gone.npz").unlink()
    bare = suite.whole["tasks"]["bare"]
    suite.whole["tasks"]["bare"] = {"results": {"x": {"metrics": {"median_rank": {"value": 3.0}}}}}
    suite.whole["tasks"]["empty"] = {}
    suite.whole["tasks"]["odd"] = {**bare, "results": 3, "controls": None, "differences": "many", "folds": []}
    np.savez(suite.folder / "arrays" / "bare.npz", audio_ND=np.zeros((2, 3)), text_MD=np.zeros((1, 3)))
    page = written()
    assert "arrays/vectors-gone.npz is missing" in page.words
    assert "no result says what the clips of a class were taken for" in page.words
    assert page.words.count("The file has no scores of this task.") == 2


@pytest.mark.parametrize("part", ["model", "protocol", "unopened", "run"])
@pytest.mark.parametrize("value", [None, 3, "words", ["a", 1]])
def test_odd_parts_of_the_file_are_left_out(suite, written, part, value):
    suite.whole[part] = value
    assert "Evaluation of" in written().words


def test_a_file_that_is_no_suite_leaves_no_page(tmp_path):
    (tmp_path / "a.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.json has no object 'tasks'"):
        write_report(tmp_path / "a.json", tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_the_radar_has_the_domains_that_were_scored(suite, written):
    for domain in ("sound", "music"):
        suite.add_classes(f"of-{domain}", ["dog", "rain"], domain=domain)
    assert "A radar needs 3 domains; 2 of them has scores" in written().words
    suite.add_classes("of-speech", ["dog", "rain"], domain="speech")
    page = written()
    assert [a for a in page.all("svg") if a.get("class") == "radar"]
    assert page.words.index("sound:") < page.words.index("music:") < page.words.index("speech:")


def test_the_model_s_own_temperature_is_used_where_it_is_known(suite, written):
    suite.add_classes("toy", ["dog", "rain", "bell"], per_class=10)
    assert "own temperature is not recorded" in written().words
    suite.whole["model"]["logit_scale"] = 20.0
    by_scale = written()
    assert "the model's own temperature, 1/20" in by_scale.words
    del suite.whole["model"]["logit_scale"]
    suite.whole["model"]["temperature"] = 0.05
    found = [re.search(r"own temperature, 1/20: expected[^%]*", p.words).group() for p in (by_scale, written())]
    assert found[0] == found[1]


def test_of_many_classes_the_most_confused_are_drawn(suite, written):
    suite.add_classes("many", [f"class {n:03d}" for n in range(120)], per_class=3, noise=3.0)
    page = written()
    assert "Of 120 classes the 50 with most mistakes." in page.words
    assert "The 50 best and the 50 worst of 120 classes." in page.words
    assert {a["data-count"] for a in page.all("svg") if "data-count" in a} == {"50"}


def test_searches_rank_as_sorting_does(suite):
    suite.add_captions("c", clips=25, captions=2)
    suite.write()
    arrays = read_suite(suite.folder / "suite.json").tasks[0].arrays
    for found in searches(arrays):
        cosines = arrays.audio_ND @ arrays.text_MD[found.row]
        own = arrays.owners[found.row]
        assert found.place == 1 + int((cosines > cosines[own]).sum())
        assert list(found.best) == sorted(range(25), key=lambda n: -cosines[n])[:3]
        assert found.right == 1


def test_another_sound_with_the_same_words_is_told_from_a_mistake(suite, written):
    suite.add_captions("c", clips=12, captions=1)
    same = "✗ same words"
    assert same not in written().words
    with np.load(suite.folder / "arrays" / "c.npz") as file:
        arrays = dict(file)
    suite.arrays("c", **{**arrays, "texts": np.array(["rain"] * 12)})
    assert same in written().words


def test_the_same_file_gives_the_same_page(suite, written):
    suite.add_classes("toy", ["dog", "rain", "bell"])
    assert written().html == written().html


def test_ten_tasks_are_written_in_seconds_and_stay_small(suite):
    suite.samples = 2
    for n in range(6):
        suite.add_classes(f"classes{n}", ESC50, per_class=20, dimension=512, seed=n)
    for n in range(2):
        suite.add_tags(f"tags{n}", ESC50, clips=500, dimension=512)
        suite.add_captions(f"captions{n}", clips=1000, captions=5, dimension=512)
    path = suite.write()
    began = time.perf_counter()
    write_report(path, suite.folder / "report.html")
    assert time.perf_counter() - began < 20  # 3 s on an idle machine
    assert (suite.folder / "report.html").stat().st_size < 5_000_000
