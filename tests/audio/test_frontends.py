"""Settings find their front-end."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clapkit.audio.frontends import build_frontend
from clapkit.audio.kaldi import KaldiFbank, KaldiSettings
from clapkit.audio.mel import ECONOMICAL, NAMED, MelFrontend
from clapkit.errors import SpecError


@pytest.mark.parametrize("settings", [*NAMED.values(), KaldiSettings()], ids=[*NAMED, "kaldi"])
def test_every_front_end_keeps_the_seam(settings):
    """Batch in, features out; rate, hop and bins are told; what is real does not depend on batch mates."""
    frontend = build_frontend(settings)
    assert (frontend.rate_hz, frontend.hop_samples, frontend.bins) == (
        settings.rate_hz,
        settings.hop_samples,
        settings.mel_bins,
    )
    samples = torch.randn(2, 6000, generator=torch.Generator().manual_seed(0)) * 0.1
    features = frontend(samples, torch.tensor([6000, 2500]))
    assert features.values.shape == (2, frontend.frames(6000), settings.mel_bins)
    assert features.mask_BT.sum(1).tolist() == [frontend.frames(6000), frontend.frames(2500)]
    alone = frontend(samples[1:, :2500]).values[0]
    np.testing.assert_allclose(features.values[1, : len(alone)], alone, atol=1e-4)


def test_settings_decide_the_class():
    assert isinstance(build_frontend(ECONOMICAL), MelFrontend)
    assert isinstance(build_frontend(KaldiSettings()), KaldiFbank)


def test_filters_are_handed_on():
    assert list(build_frontend(ECONOMICAL, stored_filterbank=True).state_dict()) == ["stored_filterbank"]
    assert build_frontend(ECONOMICAL, filterbank=np.ones((513, 64))).filterbank.unique().tolist() == [1.0]


def test_what_does_not_fit_is_refused():
    with pytest.raises(SpecError, match="no front-end for str: expected MelSettings or KaldiSettings"):
        build_frontend("laion")
    with pytest.raises(SpecError, match="cannot take stored_filterbank"):
        build_frontend(KaldiSettings(), stored_filterbank=True)
    assert isinstance(build_frontend(KaldiSettings(), stored_filterbank=False, filterbank=None), KaldiFbank)
