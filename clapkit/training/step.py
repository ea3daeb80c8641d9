"""One step: from a batch to gradients.

The batch is encoded, whole or in micro-batches; what came out, beside what is known about the clips, is the objective's
`Embeddings`; the gradients of its losses are left in `.grad`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch.nn.functional import normalize

from clapkit.audio.features import Features
from clapkit.audio.mel import single_transforms
from clapkit.data.batches import Batch, event_frames, part_of
from clapkit.data.sampling import TOKENS, stream
from clapkit.errors import RecipeError, SpecError, nearest_name
from clapkit.model import DualEncoder
from clapkit.nets.blocks import recomputed
from clapkit.nets.products import quick_products
from clapkit.objectives.base import Embeddings, Objective, named_losses
from clapkit.objectives.contrast import wide
from clapkit.training.gradient_cache import (
    AXES,
    ROWS,
    Fields,
    cached_gradients,
    check_norms,
    has_rows_apart,
    norms_at_rest,
    row_losses,
    statistics_kept,
)
from clapkit.training.optim import autocast
from clapkit.training.parallel.gather import Ranks
from clapkit.training.parallel.norms import check_joined, norms_joined
from clapkit.training.parallel.ring import has_pairs_apart, ring_losses
from clapkit.training.sound.features import batch_features
from clapkit.views.base import View

# texts -> unit-norm [U, D], with gradient where there is something to learn
EncodeTexts = Callable[[Sequence[str]], torch.Tensor]
# What teachers and predictors add: (model, batch, its features, encode_texts) -> fields of Embeddings by name. A row
# that it makes depends on its own clip or text alone: in micro-batches it is asked for a few of each at a time.
Extra = Callable[[DualEncoder, Batch, Features, EncodeTexts], Mapping[str, torch.Tensor]]
# (batch, what was made of all of it) -> further fields that no clip or text of it has for itself.
Further = Callable[[Batch, Mapping[str, torch.Tensor]], Mapping[str, torch.Tensor]]
Norms = Literal["live", "frozen", "microbatch", "sync"]

# With micro-batches, the logits of a softmax that are in memory together, where its rows can be computed apart.
LOGITS_AT_ONCE = 2**20
_VECTORS = ("audio_BD", "text_UD")  # what `How.watch` looks at
_WORD = {name: name.removesuffix(f"_{axes}") for name, axes in AXES.items()}  # as `needs` spells it
_COMES_FROM = {
    "text_private": "captions that are false for their clip: a view that adds text_private, or a column 'wrong'",
    "label": "clips with a label",
    "tag": "clips with tags",
    "audio_other": "a second draw of every clip: a loader with second=True",
    "events": "clips whose events are known, with onset and offset",
    "text_other": "another true text of the clips: a loader with other_texts=True",
    "audio_private": "sounds that are false for a text: a view that adds audio_private",
    "value": "numbers of the clips: the view Values, which reads columns",
    "text_prior": "a model with framewise=spec(FramewiseHead, ...), or TextPriors beside it",
    "text_scale": "a model with framewise=spec(FramewiseHead, ...)",
    "rebuilt": "HiddenPatches beside the model",
}


@dataclass(frozen=True)
class How:
    """How a step is taken: everything but the model, the objective and the batch.

    encode_texts  texts -> unit-norm [U, D]
    mel_views     change the features by what the batch has drawn for them
    precision     "fp32" or "bf16", in which the towers compute; losses are computed in fp32 at least
    drop_tokens   share of the tokens of a patch transformer that a step leaves out, drawn by `seed` and the step
    micro_batch   the batch is encoded so many clips at a time, twice, and the gradient is that of the whole batch
                  (`gradient_cache`); None: at once
    batch_norm    "live": statistics of the whole batch; refused where it is not encoded as a whole. "microbatch": of
                  the clips that are encoded together. "frozen": the running ones, unchanged. "sync": of the whole
                  batch of all ranks (`parallel.norms`), not with micro-batches
    recompute     blocks of transformers keep their inputs alone (`nets.blocks.recomputed`): the same gradient
    compiled      a context in which towers are called compiled (`nets.blocks.Compiled`)
    watch         is shown the fields of `Embeddings` that the model made of the whole batch, its vectors at least
    extras        teachers and predictors, see `Extra`
    negatives     the negatives of earlier steps (`beside.queue`), see `Further`; asked once a step
    ranks         the other processes that take this step with the same batch; None: there are none
    beside        what learns beside the model, in extras or objective: with `ranks` its gradients are averaged too
    text_features texts -> [U, W], what the text tower says before its head; for models with a `framewise` head
    """

    encode_texts: EncodeTexts
    mel_views: Sequence[View] = ()
    precision: str = "fp32"
    drop_tokens: float = 0.0
    seed: int = 0
    micro_batch: int | None = None
    batch_norm: Norms = "live"
    recompute: bool = False
    compiled: Callable[[], AbstractContextManager[None]] = nullcontext
    watch: Callable[[Mapping[str, torch.Tensor]], None] | None = None
    extras: Sequence[Extra] = ()
    negatives: Further | None = None
    ranks: Ranks | None = None
    beside: Sequence[torch.nn.Parameter] = ()
    text_features: EncodeTexts | None = None

    def __post_init__(self) -> None:
        if self.micro_batch is not None and self.micro_batch < 1:
            raise SpecError(f"micro_batch is a number of clips, 1 or more, or None for all; not {self.micro_batch}")
        if self.batch_norm not in get_args(Norms):
            raise SpecError(f"batch_norm={self.batch_norm!r}; {nearest_name(str(self.batch_norm), get_args(Norms))}")
        if self.batch_norm == "sync" and self.micro_batch is not None:
            raise SpecError(f"batch_norm='sync' sees the whole batch, and micro_batch={self.micro_batch} parts of it")


def take_step(model: DualEncoder, objective: Objective, batch: Batch, how: How) -> dict[str, torch.Tensor]:
    """The losses of `batch`, without graph; their gradient is added to `.grad` of all that learns.

    With `micro_batch` the gradient is that of the whole batch, to rounding; dropout draws other numbers than it would
    at once, the same in both passes. With `ranks` each process encodes its share of the batch; losses and gradients
    are those of the whole batch, on every rank.

    Raises RecipeError for a need of the objective that neither batch nor model nor extras fill, for live batch norm in
    a part of a batch, and for dropped tokens where there are none to drop or where frames are asked for.
    """
    clips = len(batch.ids)
    shares = [how.ranks.share(n) if how.ranks else slice(0, n) for n in (clips, len(batch.texts))]
    fewest = clips // how.ranks.count if how.ranks else clips  # all ranks make as many pieces, and none without clips
    pieces = max(1, -(-fewest // how.micro_batch)) if how.micro_batch else 1
    if how.batch_norm == "live" and (pieces > 1 or how.ranks is not None):
        check_norms(model)
    if how.ranks is not None:
        how.ranks.check_texts(model, len(batch.texts), pieces=pieces)
    if sync := how.batch_norm == "sync" and how.ranks is not None:
        check_joined(objective)
    encode = partial(_encoded, model, batch, frozenset(objective.needs), how)
    makers = [partial(encode, rows, columns) for rows, columns in _pieces(shares, pieces)]

    def losses(made: Fields) -> Iterator[dict[str, torch.Tensor]]:
        if how.ranks is not None and has_pairs_apart(objective) and how.negatives is None:
            if how.watch is not None:
                how.watch(how.ranks.joined({name: made[name].detach() for name in _VECTORS if name in made}))
            yield ring_losses(objective, _own(model, objective, batch, made, *shares), how.ranks, clips=clips)
            return
        made = how.ranks.joined(made) if how.ranks else made
        if how.watch is not None:
            how.watch(made)
        if how.negatives is not None:
            made = {**made, **how.negatives(batch, made)}
        z = _assembled(model, objective, batch, made)
        if how.ranks is not None:
            yield how.ranks.losses(objective, z)
        elif pieces == 1 or clips * len(batch.texts) <= LOGITS_AT_ONCE or not has_rows_apart(objective):
            yield named_losses(objective, z)
        else:
            for some in _blocks(z):
                yield row_losses(objective, replace(z, scale=model.scale), *some)

    norms = norms_joined(model) if sync else norms_at_rest(model, wanted=how.batch_norm == "frozen")
    again = recomputed(model.audio, model.text, wanted=how.recompute)
    with quick_products(model.device), single_transforms(wanted=how.precision == "bf16"), norms, again, how.compiled():
        if pieces == 1:
            found = next(losses(makers[0]()))
            torch.autograd.backward(_total(found))
            found = {name: part.detach() for name, part in found.items()}
        else:
            learnt = [*(weight for _, weight in model.learnt()), *how.beside]
            kept = statistics_kept(model)
            found = cached_gradients(makers, losses, device=model.device, learnt=learnt, second_pass=kept)
    if how.ranks is None:
        return found
    how.ranks.average_gradients((*(p for _, p in model.learnt()), *how.beside))
    if how.batch_norm == "microbatch":
        how.ranks.average_statistics(model)
    return how.ranks.averaged(found)


def _pieces(shares: Sequence[slice], count: int) -> list[tuple[slice, slice]]:
    """Shares of clips and of texts in `count` parts of nearly equal size; of few texts, some parts hold none."""
    cuts = [[s.start + (s.stop - s.start) * i // count for i in range(count + 1)] for s in shares]
    rows, columns = [[slice(a, b) for a, b in pairwise(cut)] for cut in cuts]
    return list(zip(rows, columns, strict=True))


def _blocks(z: Embeddings) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Positions of clips and of texts, some of each at a time, so that it has LOGITS_AT_ONCE logits or a row."""
    sides = [torch.arange(len(side), device=side.device) for side in (z.audio_BD, z.text_UD)]
    count = min(-(-len(sides[0]) * len(sides[1]) // LOGITS_AT_ONCE), *map(len, sides))
    return zip(*(side.tensor_split(count) for side in sides), strict=True)


def _encoded(
    model: DualEncoder, batch: Batch, needs: frozenset[str], how: How, rows: slice, columns: slice
) -> dict[str, torch.Tensor]:
    """The fields that a model makes, of some clips and texts of the batch."""
    whole = len(batch.ids)
    part = part_of(batch, rows, columns)
    features = batch_features(model, part, how.mel_views)
    check_dropped(how.drop_tokens, model.audio, needs)
    keep = _visible(model, features, how, batch.step, rows, whole)
    with autocast(how.precision, model.device):
        made = _heard(model, features, keep, frames=bool(needs & {"frames", "events"}))
    if part.texts:
        made["text_UD"] = how.encode_texts(part.texts)
        made |= _of_texts(model, part, needs, how)
    if "text_private" in needs and batch.wrong:
        made["text_private_BKD"] = _wrong_texts(part, how, width=_widest(batch), like=made["audio_BD"])
    if "audio_other" in needs and (second := part.second_draw()) is not None:
        made["audio_other_BD"] = _heard_again(model, second, how, batch.step, rows, whole, draw=1)
    if "audio_private" in needs and batch.wrong_sounds is not None and part.texts:
        made["audio_private_UKD"] = _wrong_sounds(model, batch, part, how, columns)
    if how.extras:
        # Whoever encodes texts has some to encode, though this part may hold none; what it makes of them is dropped.
        shown = part if part.texts else part_of(batch, rows, slice(0, 1))
        for extra in how.extras:
            with autocast(how.precision, model.device):
                added = dict(extra(model, shown, features, how.encode_texts))
            _check_added(added, made)
            made |= {name: v for name, v in added.items() if part.texts or ROWS[name] != "texts"}
    return made


def _of_texts(model: DualEncoder, part: Batch, needs: frozenset[str], how: How) -> dict[str, torch.Tensor]:
    """What else an objective needs of the texts themselves: other texts, and what is read off them for frames."""
    made = {}
    if "text_other" in needs and part.other_texts:
        made["text_other_UD"] = how.encode_texts(part.other_texts)
    if needs & {"text_prior", "text_scale"} and model.framewise is not None and how.text_features is not None:
        with autocast("fp32", model.device):  # log-odds of -8 and their differences, and the texts themselves are fp32
            terms = model.framewise(how.text_features(part.texts))
        found = {"text_prior": terms.bias_C, "text_scale": terms.scale_C * model.framewise.log_scale.exp()}
        made |= {f"{name}_U": value for name, value in found.items() if name in needs}
    return made


def _heard_again(
    model: DualEncoder, part: Batch, how: How, step: int, rows: slice, clips: int, *, draw: int
) -> torch.Tensor:
    """[B, D] of other sound than that of the batch; it stands in `part` where the batch has its own."""
    features = batch_features(model, part, how.mel_views)
    keep = _visible(model, features, how, step, rows, clips, draw=draw)
    with autocast(how.precision, model.device):
        return wide(model.encode_features(features, keep))


def _wrong_sounds(model: DualEncoder, batch: Batch, part: Batch, how: How, columns: slice) -> torch.Tensor:
    """audio_private_UKD of the texts `columns`; zeros where there is none."""
    whole, wrong = batch.wrong_sounds, part.wrong_sounds
    assert whole is not None and wrong is not None, "asked for where there are some"
    made_UKD = torch.zeros(len(part.texts), wrong.kinds, model.dimension, device=model.device)
    if not len(wrong.text_M):
        return made_UKD
    sounds = replace(part, samples_BN=wrong.samples_MN, lengths_B=wrong.lengths_M, mel_params=wrong.mel_params)
    found_MD = _heard_again(model, sounds, how, batch.step, whole.rows(columns), len(whole.text_M), draw=2)
    places = (torch.from_numpy(index).to(model.device) for index in (wrong.text_M, wrong.kind_M))
    return made_UKD.to(found_MD.dtype).index_put(tuple(places), found_MD)


def _visible(
    model: DualEncoder, features: Features, how: How, step: int, rows: slice, clips: int, *, draw: int = 0
) -> torch.Tensor | None:
    """Indices [B, K] of the tokens that a step sees of the clips `rows`, of `clips`; None for all.

    Each clip has its own draw, a function of seed and step alone; `draw` tells the draws of one step apart.
    """
    if not how.drop_tokens:
        return None
    tokens = model.audio.token_count(features.values.shape[1])
    kept = max(1, round(tokens * (1.0 - how.drop_tokens)))
    place = (step, draw) if draw else (step,)
    order = stream(how.seed, TOKENS, *place).random((clips, tokens)).argsort(axis=1)[rows, :kept]
    return torch.from_numpy(np.sort(order, axis=1)).to(features.values.device)


def check_dropped(share: float, tower: torch.nn.Module, needs: Iterable[str]) -> None:
    """RecipeError for tokens to be dropped of a tower without any, or below an objective that reads frames."""
    if not share:
        return
    if not hasattr(tower, "token_count"):
        raise RecipeError(
            f"train.drop_tokens={share}: {type(tower).__name__} has no tokens to drop; set it to 0, or take a patch "
            "transformer"
        )
    if not {"frames", "events"}.isdisjoint(needs):
        raise RecipeError("the objective reads frames, and dropped tokens leave holes in time: set train.drop_tokens=0")


def _heard(model: DualEncoder, features: Features, keep: torch.Tensor | None, *, frames: bool) -> dict[str, Any]:
    if not frames:
        return {"audio_BD": wide(model.encode_features(features, keep))}
    if getattr(model.audio_head, "reads", "summary") == "frames":
        raise RecipeError("the objective reads frames, but this model makes its vectors of all frames together")
    out = model.audio(features)
    audio_BD, frames_BTD = (wide(model.audio_head(x)) for x in (out.summary_BD, out.frames_BTD))
    return {
        "audio_BD": normalize(audio_BD, dim=-1),
        "frames_BTD": normalize(frames_BTD, dim=-1),
        "frame_mask_BT": out.mask_BT,
    }


def _widest(batch: Batch) -> int:
    return max((len(wrong) for wrong in batch.wrong), default=0)


def _wrong_texts(part: Batch, how: How, *, width: int, like: torch.Tensor) -> torch.Tensor:
    """text_private_BKD with K = `width`; where a clip has fewer, any vector."""
    texts = tuple(dict.fromkeys(text for wrong in part.wrong for text in wrong if text))
    if not texts:
        return like.new_zeros(len(part.wrong), width, like.shape[1])
    place = {text: i for i, text in enumerate(texts)}
    index_BK = np.zeros((len(part.wrong), width), np.int64)
    for b, wrong in enumerate(part.wrong):
        index_BK[b, : len(wrong)] = [place.get(text, 0) for text in wrong]
    return how.encode_texts(texts)[torch.from_numpy(index_BK).to(like.device)]


def _check_added(added: Mapping[str, Any], made: Mapping[str, Any]) -> None:
    for name in added:
        if name not in ROWS:
            raise RecipeError(f"an extra of the step made '{name}'; {nearest_name(name, list(ROWS))}")
        if name in made:
            raise RecipeError(f"an extra of the step made '{name}', which was there already")


def _assembled(model: DualEncoder, objective: Objective, batch: Batch, made: Mapping[str, torch.Tensor]) -> Embeddings:
    """What the model made beside what is known; RecipeError for a need that is not there."""
    known: dict[str, np.ndarray | None] = {"soft_target_BU": batch.soft_target_BU}
    if "label" in objective.needs:
        known["label_B"] = batch.label_B
    if "tag" in objective.needs:
        known["tag_BC"] = batch.tag_BC
    if "text_private_BKD" in made and batch.wrong and "private_BK" not in made:
        false_BK = [[*map(bool, wrong), *[False] * (_widest(batch) - len(wrong))] for wrong in batch.wrong]
        known["private_BK"] = np.array(false_BK, dtype=bool)
    if "value" in objective.needs and batch.value_BV is not None:
        known["value_BV"] = _complete(objective, batch)
    if "audio_private_UKD" in made and batch.wrong_sounds is not None:
        there_UK = np.zeros(made["audio_private_UKD"].shape[:2], bool)
        there_UK[batch.wrong_sounds.text_M, batch.wrong_sounds.kind_M] = True
        known["audio_private_UK"] = there_UK
    if "events" in objective.needs and batch.events:
        frames = made["frames_BTD"].shape[1]
        known["events_BUT"] = event_frames(batch, frames=frames, rate_hz=model.audio.frame_rate_hz)
    there = {name: torch.from_numpy(v).to(model.device) for name, v in known.items() if v is not None}
    there = {name: v.to(made["audio_BD"].dtype) if v.is_floating_point() else v for name, v in there.items()}
    alone = {"scale": model.scale, "bias": model.bias}
    z = Embeddings(**{**alone, **there, **made})  # type: ignore[arg-type]
    filled = {_WORD[name] for name in ROWS if getattr(z, name) is not None}
    for need in objective.needs:
        if need not in filled:
            where = _COMES_FROM.get(need, "a model, teacher or predictor that makes it")
            raise RecipeError(f"{type(objective).__name__} needs '{need}', and this step has none. It takes {where}")
    return z


def _own(
    model: DualEncoder, objective: Objective, batch: Batch, made: Fields, rows: slice, columns: slice
) -> Embeddings:
    """What a rank has that encodes the clips `rows` and the texts `columns`, perhaps none; its clips' targets whole."""
    none_UD = made["audio_BD"][:0]
    z = _assembled(model, objective, part_of(batch, rows, columns), {"text_UD": none_UD, **made})
    return replace(z, soft_target_BU=torch.from_numpy(batch.soft_target_BU[rows]).to(none_UD))


def _complete(objective: Objective, batch: Batch) -> np.ndarray:
    """The values of all clips; RecipeError for clips without."""
    assert batch.value_BV is not None, "asked for where there are some"
    lacking = [name for name, row in zip(batch.ids, batch.value_BV, strict=True) if not np.isfinite(row).all()]
    if lacking:
        raise RecipeError(
            f"{type(objective).__name__} needs 'value', and of the {len(batch.ids)} clips of a batch {len(lacking)} "
            f"have none: {', '.join(lacking[:5])}. Their columns are blank, or a view has put them together with others"
        )
    return batch.value_BV


def _total(losses: Mapping[str, torch.Tensor]) -> Any:
    return sum(losses.values())
