"""Wherever a command takes a model, a name on the hub is one."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile


@pytest.mark.parametrize(
    "command",
    [
        ("embed", "{sound}", "--out", "{out}.npz", "--model"),
        ("classify", "{sound}", "--labels", "a,b", "--model"),
        ("index", "{sound}", "--out", "{out}", "--model"),
        ("eval", "zero-shot", "--data", "{data}", "--label-column", "label"),
        ("inspect",),
    ],
    ids=lambda command: command[0],
)
def test_a_name_on_the_hub_is_asked_for_there(command, clapkit, tmp_path):
    sound = tmp_path / "a" / "dog.wav"
    sound.parent.mkdir()
    soundfile.write(sound, np.zeros(800), 8000)
    (tmp_path / "data.csv").write_text(f"path,label\n{sound},dog\n", encoding="utf-8")
    places = {"sound": sound, "out": tmp_path / "out", "data": tmp_path / "data.csv"}
    words = [word.format(**places) for word in command]
    outcome = clapkit(*words, "hf://nobody/nothing")
    told = " ".join(outcome.stderr.split())
    assert outcome.exit_code == 2 and "nobody/nothing" in told and "HF_HUB_OFFLINE" in told
