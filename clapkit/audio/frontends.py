"""Which front-end belongs to which settings."""

from __future__ import annotations

from typing import Any

from clapkit.audio.kaldi import KaldiFbank, KaldiSettings
from clapkit.audio.mel import MelFrontend, MelSettings
from clapkit.errors import SpecError

Settings = MelSettings | KaldiSettings
Frontend = MelFrontend | KaldiFbank


def build_frontend(settings: Settings, **more: Any) -> Frontend:
    """The front-end that `settings` describe; `more` is handed to a MelFrontend (`filterbank`, `stored_filterbank`).

    Raises SpecError for settings of an unknown type, and for `more` beside settings whose front-end takes none.
    """
    if isinstance(settings, MelSettings):
        return MelFrontend(settings, **more)
    if not isinstance(settings, KaldiSettings):
        raise SpecError(f"there is no front-end for {type(settings).__name__}: expected MelSettings or KaldiSettings")
    given = [name for name, value in more.items() if value is not None and value is not False]
    if given:
        raise SpecError(f"the Kaldi front-end always computes its filters and cannot take {', '.join(given)}")
    return KaldiFbank(settings)
