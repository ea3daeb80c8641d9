"""The command as a whole: help, speed, errors, exit statuses."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from clapkit.errors import ModelError

VERBS = [
    (), ("train",), ("eval",), ("eval", "zero-shot"), ("eval", "retrieval"), ("eval", "search"), ("embed",),
    ("classify",), ("index",), ("search",), ("recipes",), ("recipes", "list"), ("recipes", "show"), ("demo",),
    ("inspect",), ("convert",), ("serve",), ("tag",), ("playlist",), ("duplicates",), ("collections",),
    ("eval", "suite"), ("eval", "compare"), ("eval", "audit"), ("eval", "calibrate"), ("eval", "leakage"),
]  # fmt: skip


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_help_teaches(clapkit, verb):
    outcome = clapkit(*verb, "--help", COLUMNS="200")
    assert outcome.exit_code == 0
    assert "Usage: " in outcome.stdout
    if verb and verb not in (("eval",), ("recipes",)):
        assert re.search(rf"Examples?:\s+clapkit {' '.join(verb)}\b", outcome.stdout)


def test_help_is_quick_and_needs_no_torch():
    code = (
        "import sys, time; sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "from clapkit.cli.main import main\n"
        "sys.argv = ['clapkit', '--help']\n"
        "try: main()\n"
        "finally: print(time.process_time(), file=sys.stderr)"
    )
    seconds = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr
        assert "zero-shot" in done.stdout
        seconds.append(float(done.stderr))
    assert min(seconds) < 1.0  # of the processor, so that a busy machine does not matter


def test_without_torch_a_verb_names_the_command_that_installs_it(tmp_path):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from clapkit.cli.main import main\n"
        f"sys.argv = ['clapkit', 'search', {str(tmp_path)!r}, 'rain', '--model', {str(tmp_path)!r}]; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 2
    assert 'pip install "clapkit[torch]"' in done.stderr


def test_version(clapkit):
    from clapkit import __version__

    assert clapkit("--version").stdout == f"clapkit {__version__}\n"


def test_a_mistyped_verb_or_option_is_corrected(clapkit):
    verb, option = clapkit("clasify"), clapkit("embed", "x", "--modle", "y")
    assert (verb.exit_code, option.exit_code) == (2, 2)
    assert "classify" in verb.stderr
    assert "--model" in option.stderr


def test_an_error_is_a_message_and_status_2(clapkit, tmp_path):
    outcome = clapkit("embed", tmp_path / "dog.wav", "--model", tmp_path / "nowhere", "--out", tmp_path / "v.npz")
    assert outcome.exit_code == 2
    assert outcome.stderr.startswith("error: there is no model at")
    assert "nowhere" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert outcome.stdout == ""


def test_the_traceback_is_shown_on_demand(clapkit, tmp_path):
    words = ("embed", tmp_path / "dog.wav", "--model", tmp_path / "nowhere", "--out", tmp_path / "v.npz")
    assert isinstance(clapkit(*words, CLAPKIT_DEBUG="1").exception, ModelError)


def test_ctrl_c_ends_with_130(clapkit, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("clapkit.cookbook.recipe_files", interrupted)
    assert clapkit("recipes", "list").exit_code == 130
