"""The one table of what can be recognised, most particular first: the first that recognises a file reads it."""

from __future__ import annotations

from clapkit.checkpoints import glap, hf, laion, m2d, microsoft, panns, tinyclap, wav2clip
from clapkit.checkpoints.base import Importer

IMPORTERS: tuple[Importer, ...] = (
    *laion.IMPORTERS,
    *hf.IMPORTERS,
    *microsoft.IMPORTERS,
    *m2d.IMPORTERS,
    *glap.IMPORTERS,
    *tinyclap.IMPORTERS,
    *wav2clip.IMPORTERS,
    *panns.IMPORTERS,
)
