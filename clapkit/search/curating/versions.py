"""Sounds that a library holds more than once: the same bytes, the same recording, or what sounds the same.

  same   equal content under two names
  copy   one recording: encoded again, louder or quieter, or one is a cut of the other (by fingerprint)
  part   two sounds that share a part, as two cuts from different places of one recording do (by fingerprint)
  alike  vectors within a cosine of each other: takes of one thing, a change of pitch or speed; not the same recording

The first three are found by what is heard bit by bit (`clapkit.search.fingerprint`, for the task of card 068), the
last by the vectors that the library holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from clapkit.audio.lending import borrowed_pool
from clapkit.audio.pool import DecodeRequest
from clapkit.errors import AudioError, SpecError
from clapkit.nearest import nearest
from clapkit.search.curating.files import FileTable
from clapkit.search.fingerprint import RATE_HZ, THRESHOLD, Fingerprint, FingerprintIndex, fingerprint

KINDS = ("same", "copy", "part", "alike")
LONGEST_S = 600.0  # of a file so much is heard: the whole of it is held in memory meanwhile
_BLOCK, _LARGEST_BLOCK = 512, 8192
_NEIGHBOURS = 20


@dataclass(frozen=True)
class Link:
    """Two files that belong together.

    kind      one of `KINDS`
    score     agreement of the fingerprints, or the cosine of the vectors; 1 for the same bytes
    offset_s  where in `other` the sound of `file` begins (negative: `other` begins later); None where that is unknown
    """

    file: str
    other: str
    kind: str
    score: float
    offset_s: float | None = None


@dataclass(frozen=True)
class Group:
    """Files that are linked, directly or through others, in the order of their names; the links, best first."""

    files: tuple[str, ...]
    links: tuple[Link, ...]


def hear(files: Sequence[str], *, workers: int = 1) -> Iterator[tuple[str, Fingerprint | AudioError]]:
    """The fingerprint of each file, or why it has none, in order. `workers`: decoder processes; 0 decodes here."""
    requests = (DecodeRequest(source=name, rate_hz=RATE_HZ, duration_s=LONGEST_S) for name in files)
    with borrowed_pool(workers) as pool:
        for n, sound in pool.map(requests):
            yield files[n], sound if isinstance(sound, AudioError) else fingerprint(sound.samples, rate_hz=RATE_HZ)


def versions_of(prints: Iterable[tuple[str, Fingerprint]], *, threshold: float = THRESHOLD) -> list[Link]:
    """Pairs of files that share sound, each pair once: links of the kinds "copy" and "part".

    Fingerprints are taken as they come and searched in blocks, so that a library need not be held with all that a
    query needs. Sounds with too little in them to be told from others have no links. SpecError for a threshold outside
    (0, 1].
    """
    index = FingerprintIndex()
    links: dict[tuple[str, str], Link] = {}
    block: list[tuple[str, Fingerprint]] = []

    def search() -> None:
        index.add([name for name, _ in block], [one for _, one in block])
        for name, one in block:
            for hit in index.search(one, threshold=threshold):
                pair = min(name, hit.id), max(name, hit.id)
                found = Link(name, hit.id, "copy" if hit.whole else "part", hit.agreement, hit.offset_s)
                if name != hit.id and (pair not in links or _better(found, links[pair])):
                    links[pair] = found
        block.clear()

    for name, one in prints:
        if one.judgeable:
            block.append((name, one))
        if len(block) >= min(_LARGEST_BLOCK, max(_BLOCK, len(index) // 4)):
            search()
    search()
    return list(links.values())


def same_contents(table: FileTable) -> list[Link]:
    """Files of equal content, each linked to the first of them."""
    first: dict[str, str] = {}
    links = []
    for file, content in zip(table.files, table.contents, strict=True):
        other = first.setdefault(content, file)
        if other != file:
            links.append(Link(file, other, "same", 1.0, 0.0))
    return links


def alike(table: FileTable, *, above: float) -> list[Link]:
    """Pairs of files of different content with a cosine of at least `above`, of each file its 20 nearest at most.

    SpecError for an `above` outside 0..1.
    """
    if not 0 < above <= 1:
        raise SpecError(f"above is {above}: expected a cosine above 0 and at most 1")
    kept = table.without_copies()
    if len(kept) < 2:
        return []
    vectors_ND = table.vectors_FD[kept]
    scores_NK, found_NK = nearest(vectors_ND, vectors_ND, _NEIGHBOURS + 1)
    pairs = {
        (min(n, int(m)), max(n, int(m))): float(score)
        for n, (row, near) in enumerate(zip(scores_NK, found_NK, strict=True))
        for score, m in zip(row, near, strict=True)
        if m != n and score >= above
    }
    return [Link(table.files[kept[a]], table.files[kept[b]], "alike", score) for (a, b), score in sorted(pairs.items())]


def groups_of(links: Iterable[Link]) -> list[Group]:
    """Files that are linked to each other, each file in one group; the largest groups first."""
    root: dict[str, str] = {}

    def top(name: str) -> str:
        while root.setdefault(name, name) != name:
            root[name] = name = root[root[name]]
        return name

    links = list(links)
    for link in links:
        root[top(link.file)] = top(link.other)
    members: dict[str, list[str]] = {}
    for name in sorted(root):
        members.setdefault(top(name), []).append(name)
    held: dict[str, list[Link]] = {}
    for link in sorted(links, key=lambda one: (KINDS.index(one.kind), -one.score, one.file, one.other)):
        held.setdefault(top(link.file), []).append(link)
    found = [Group(tuple(names), tuple(held[name])) for name, names in members.items()]
    return sorted(found, key=lambda group: (-len(group.files), group.files))


def _better(one: Link, other: Link) -> bool:
    return (one.kind == "copy", one.score) > (other.kind == "copy", other.score)
