"""From settings to the front-end that computes them."""

from __future__ import annotations

from typing import Any

from clapkit.audio.mel import MelFrontend


def build_frontend(settings: Any, **more: Any) -> Any:
    """The front-end of these settings."""
    return MelFrontend(settings, **more)
