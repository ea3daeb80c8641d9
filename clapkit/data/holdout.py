"""Setting clips aside, so that what was learnt can be measured on sound that was not trained on."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from clapkit.data.clip import Clip
from clapkit.data.sampling import HELD_OUT, stream
from clapkit.errors import SpecError


def hold_out(
    clips: Sequence[Clip], *, share: float = 0.2, groups: Sequence[Hashable] | None = None, seed: int = 0
) -> tuple[tuple[Clip, ...], tuple[Clip, ...]]:
    """(clips to train on, clips set aside), in the order given.

    Of each label about `share` of the clips are set aside, and at least one, but never its last group: a label with a
    single group is trained on alone. Clips without a label count as one label. `groups` names the recording of each
    clip: recordings stay together, as do clips cut from one file. The same clips and seed give the same parts.
    Raises SpecError for a share outside [0, 1).
    """
    if not 0 <= share < 1:
        raise SpecError(f"the share of clips to set aside lies in [0, 1), not {share}")
    if share == 0:
        return tuple(clips), ()
    named = [clip.audio if isinstance(clip.audio, str) else clip.id for clip in clips]
    group_of = named if groups is None else list(groups)
    by_label: dict[str | None, dict[Hashable, list[int]]] = {}
    owner: dict[Hashable, str | None] = {}  # a group with several labels counts for the first that it shows
    for row, (clip, group) in enumerate(zip(clips, group_of, strict=True)):
        label = owner.setdefault(group, clip.label)
        by_label.setdefault(label, {}).setdefault(group, []).append(row)
    aside: set[int] = set()
    for number, rows_of in enumerate(by_label.values()):
        wanted = share * sum(map(len, rows_of.values()))
        order = list(rows_of)
        taken: list[int] = []
        for place in stream(seed, HELD_OUT, number).permutation(len(order))[:-1]:
            if taken and len(taken) + len(rows_of[order[place]]) / 2 > wanted:
                break
            taken += rows_of[order[place]]
        aside.update(taken)
    kept = tuple(clip for row, clip in enumerate(clips) if row not in aside)
    return kept, tuple(clips[row] for row in sorted(aside))
