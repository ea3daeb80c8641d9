"""What a view is: an alteration of a clip in two steps, draw and apply.

`draw` takes every random decision and returns it as plain JSON data; `apply` has no randomness. So a training example
can be logged, replayed and moved to another process, and nothing touches a global seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from clapkit.data.clip import Clip

Domain = Literal["audio", "mel", "text"]
Params = Mapping[str, Any]


@runtime_checkable
class View(Protocol):
    """A frozen dataclass with these members.

    adds     the batch fields it makes possible (checked against the `needs` of the objective)
    domain   "audio": `apply` changes samples at model rate; "text": it changes captions;
             "mel": `apply` is given and returns log-mel frames [T, F] in place of a clip
    """

    @property
    def adds(self) -> tuple[str, ...]: ...

    @property
    def domain(self) -> Domain: ...

    def draw(self, rng: np.random.Generator, clip: Clip, pool: Sequence[Clip]) -> Params:
        """Decide. `pool` holds the clips that partners may be taken from; partners are named by id."""
        ...

    def apply(self, clip: Any, params: Params, pool: Mapping[str, Clip]) -> Any:
        """Do what was decided. `pool` maps the ids in `params` to clips."""
        ...
