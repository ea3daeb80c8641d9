"""Mel settings: named, JSON-able, and refused where they cannot work."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest

from clapkit.audio.mel_settings import (
    ECONOMICAL,
    EFFICIENTAT,
    GLAP,
    LAION,
    LAION_FUSED,
    M2D,
    MSCLAP_2022,
    MSCLAP_2023,
    NAMED,
    WAV2CLIP,
    named_settings,
)
from clapkit.errors import SpecError
from clapkit.spec import from_json, to_json


@pytest.mark.parametrize("name", NAMED)
def test_named_settings_survive_json(name):
    settings = named_settings(name)
    assert from_json(json.loads(json.dumps(to_json(settings)))) == settings


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(SpecError, match="'msclap_2024'; did you mean 'msclap_202"):
        named_settings("msclap_2024")


def test_the_names_are_those_of_the_values():
    assert named_settings("laion") is LAION
    assert named_settings("laion_fused") is LAION_FUSED
    assert named_settings("msclap_2022") is MSCLAP_2022
    assert named_settings("msclap_2023") is MSCLAP_2023
    assert named_settings("m2d") is M2D
    assert named_settings("economical") is ECONOMICAL
    assert named_settings("glap") is GLAP
    assert named_settings("efficientat") is EFFICIENTAT
    assert named_settings("wav2clip") is WAV2CLIP


@pytest.mark.parametrize(
    ("settings", "samples", "frames"),
    [(LAION, 480000, 1001), (MSCLAP_2022, 220500, 690), (MSCLAP_2023, 308700, 965), (M2D, 97120, 608)],
)
def test_published_clip_lengths_have_the_published_frames(settings, samples, frames):
    assert settings.frames(samples) == frames


def test_frames_that_start_at_their_sample_must_fit():
    settings = replace(ECONOMICAL, centred=False)
    assert [settings.frames(n) for n in (1, 1024, 1523, 1524)] == [1, 1, 1, 2]


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("scale", "bark", "'slaney', 'htk', 'kaldi'"),
        ("norm", "area", "'slaney', None"),
        ("power", 3, "1, 2|2, 1"),
        ("log", "log2", "'db', 'ln'"),
        ("pad", "wrap", "'reflect', 'zeros'"),
        ("rate_hz", 0, "1 or more"),
        ("hop_samples", 0, "1 or more"),
        ("mel_bins", 0, "1 or more"),
        ("n_fft", 1023, "even"),
        ("n_fft", 0, "even"),
        ("window_samples", 1025, "from 2 to n_fft = 1024"),
        ("window_samples", 1, "from 2 to n_fft = 1024"),
        ("low_hz", 14000.0, "below high_hz = 14000"),
        ("low_hz", -1.0, "from 0"),
        ("high_hz", 16001.0, "= 16000"),
        ("floor", 0.0, "above 0"),
        ("standardise", (0.0, 0.0), "deviation above 0"),
        ("standardise", "batch", "deviation above 0.*'clip'"),
        ("window", "hamming", "'hann', 'hann_symmetric'"),
        ("preemphasis", 0.0, "above 0, at most 1"),
        ("preemphasis", 1.5, "above 0, at most 1"),
        ("top_db", -80.0, "above 0"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(field, value, expected):
    with pytest.raises(SpecError, match=f"{field} = .*{expected}") as caught:
        replace(ECONOMICAL, **{field: value})
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("mel_bins", 64, "257"),
        ("low_hz", 20.0, "0"),
        ("high_hz", 7000.0, "8000"),
        ("norm", "slaney", "None"),
        ("filterbank_rate_hz", 16000, "None"),
    ],
)
def test_a_plain_spectrum_has_no_filters_to_set(field, value, expected):
    with pytest.raises(SpecError, match=f"{field} = {value!r}, expected {expected}.* for scale 'linear'"):
        replace(WAV2CLIP, **{field: value})


def test_a_range_in_db_needs_values_in_db():
    with pytest.raises(SpecError, match=r"top_db = 80.0, expected None"):
        replace(M2D, top_db=80.0)


def test_pre_emphasis_takes_one_sample():
    settings = replace(ECONOMICAL, preemphasis=0.97)
    assert [settings.frames(n) for n in (1, 2, 500, 501)] == [1, 1, 1, 2]
    assert EFFICIENTAT.frames(320000) == 1000


def test_younger_fields_are_marked_so_that_older_models_keep_their_identity():
    younger = {f.name for f in fields(ECONOMICAL) if f.metadata.get("omit_default")}
    assert younger == {"window", "preemphasis", "top_db", "transform"}


def test_the_rate_of_the_filters_bounds_them():
    with pytest.raises(SpecError, match=r"high_hz = 14000.0, .* = 8000"):
        replace(MSCLAP_2022, filterbank_rate_hz=16000)
