"""The numbers of a training run, and how much of a given model it may change."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from clapkit.errors import SpecError, nearest_name
from clapkit.text.prompts import DEFAULT, fill

Learns = Literal["full", "audio", "heads", "audio_head"]
BatchNorm = Literal["frozen", "live"]
StepNorm = Literal["live", "frozen", "microbatch", "sync"]
Parallel = Literal["ddp", "fsdp"]
Task = Literal["zero-shot", "retrieval"]


@dataclass(frozen=True)
class TrainSettings:
    """How long, how fast, and how carefully.

    epochs, steps      the run's length; `steps` wins where both are given
    lr                 peak learning rate of AdamW, reached after `warmup_steps`, then a cosine down to `final_lr_share`
    weight_decay       on matrices and kernels only, never on norms, biases and the temperature
    precision          "fp32", "bf16" (autocast), or "auto": bf16 where the processor has instructions for it
    drop_tokens        share of a patch transformer's tokens left out at each step (FLAP, card 024); 0 for other towers
    checkpoint_s       seconds between checkpoints (one is always written at the end); `keep` of them stay
    ema                decay of a moving average of the weights (`training.ema`), which with `ema_warmup` follows faster
                       at first; None: there is none
    ema_result         the average is what the run ends with; otherwise it only teaches, and the weights themselves are
    micro_batch        clips that are in memory at once: gradients of larger batches are put together exactly
                       (`training.gradient_cache`); None: the batch
    batch_norm         what norms over the batch do in a model that the run builds. "live": statistics of the batch, or
                       refused with micro-batches; "microbatch": statistics of the micro-batch; "frozen": running ones;
                       "sync": of the batch that several processes share, without micro-batches
    parallel           what several processes hold. "ddp": each the whole model; "fsdp": each a share of the towers and
                       of what the optimizer remembers of them (`training.parallel`). One alone holds everything
    checkpoint_activations  the blocks of transformers keep their inputs alone and are computed again for the gradient
                       (`nets.blocks.recomputed`): the same gradient in a part of the memory, a third slower
    cache_mel          mel spectra of the clips are computed once and kept on disk (`training.sound.mels`), and steps
                       read them in place of samples. Longer clips are cut at frames then. For audio views that a mel
                       can follow exactly; others are refused
    compile            torch compiles the towers (`nets.blocks.Compiled`), which takes a minute at the first step and
                       pays on accelerators. A run that goes on after a stop need not end bit for bit equal then
    """

    epochs: float = 40.0
    steps: int | None = None
    lr: float = 2e-3
    final_lr_share: float = 0.001
    warmup_steps: int = 100
    weight_decay: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.98
    clip_norm: float = 1.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    drop_tokens: float = 0.0
    seed: int = 0
    checkpoint_s: float = 60.0
    keep: int = 2
    log_every: int = 10
    ema: float | None = field(default=None, metadata={"omit_default": True})
    ema_warmup: bool = field(default=True, metadata={"omit_default": True})
    ema_result: bool = field(default=True, metadata={"omit_default": True})
    micro_batch: int | None = field(default=None, metadata={"omit_default": True})
    batch_norm: StepNorm = field(default="live", metadata={"omit_default": True})
    parallel: Parallel = field(default="ddp", metadata={"omit_default": True})
    checkpoint_activations: bool = field(default=False, metadata={"omit_default": True})
    cache_mel: bool = field(default=False, metadata={"omit_default": True})
    compile: bool = field(default=False, metadata={"omit_default": True})

    def __post_init__(self) -> None:
        for name in ("lr", "clip_norm", "epochs", "checkpoint_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise SpecError(f"{name} has to be a number above 0, not {getattr(self, name)}")
        for name in ("warmup_steps", "weight_decay", "seed"):
            if not 0 <= getattr(self, name) < 2**31:
                raise SpecError(f"{name} has to be 0 or more and below 2**31, not {getattr(self, name)}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise SpecError(f"{name} is a decay in [0, 1), not {getattr(self, name)}")
        if not 0 <= self.final_lr_share <= 1:
            raise SpecError(f"final_lr_share has to lie between 0 and 1, not {self.final_lr_share}")
        for name in ("steps", "micro_batch"):
            if type(getattr(self, name)) not in (int, type(None)):
                raise SpecError(f"{name} is a whole number, or none, not {getattr(self, name)!r}")
        if not 0 <= self.drop_tokens < 1:
            raise SpecError(f"drop_tokens is a share in [0, 1), not {self.drop_tokens}")
        for name in ("keep", "log_every"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name} has to be at least 1, not {getattr(self, name)}")
        if self.steps is not None and self.steps < 1:
            raise SpecError(f"steps has to be at least 1, not {self.steps}")
        if self.precision not in ("auto", "fp32", "bf16"):
            raise SpecError(f"precision is auto, fp32 or bf16, not {self.precision!r}")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise SpecError(f"ema is a decay in [0, 1), or none for no average, not {self.ema}")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise SpecError(
                f"micro_batch has to be at least 1 clip, or none for the whole batch, not {self.micro_batch}"
            )
        if self.compile and self.checkpoint_activations:
            raise SpecError(
                "train.compile and train.checkpoint_activations do not go together: what is computed again is not the "
                "compiled pass. Set one of them to false; train.micro_batch saves memory too"
            )
        if self.parallel not in get_args(Parallel):
            near = nearest_name(str(self.parallel), get_args(Parallel))
            raise SpecError(f"parallel cannot be {self.parallel!r}; {near}")
        if self.batch_norm not in get_args(StepNorm):
            raise SpecError(
                f"batch_norm cannot be {self.batch_norm!r}; {nearest_name(str(self.batch_norm), get_args(StepNorm))}"
            )
        if self.batch_norm == "sync" and self.compile:
            raise SpecError(
                "train.batch_norm='sync' exchanges statistics inside the towers, which train.compile=true cannot "
                "compile: set compile to false, or batch_norm='microbatch'"
            )
        if self.batch_norm == "sync" and self.micro_batch is not None:
            raise SpecError(
                "train.batch_norm='sync' takes statistics of the whole batch, and with train.micro_batch="
                f"{self.micro_batch} there are parts of it: set micro_batch to none, or batch_norm='microbatch'"
            )

    def total_steps(self, clips: int, batch: int) -> int:
        """Steps of the whole run over `clips` clips in batches of `batch`."""
        return self.steps if self.steps is not None else max(1, math.ceil(self.epochs * clips / batch))

    def lr_at(self, step: int, total: int) -> float:
        """Learning rate of step `step` (0-based) of `total`: linear warm-up, then half a cosine."""
        warmup = min(self.warmup_steps, total // 2)
        if step < warmup:
            return self.lr * (step + 1) / warmup
        done = (step - warmup) / max(1, total - warmup)
        return self.lr * (self.final_lr_share + (1 - self.final_lr_share) * 0.5 * (1 + math.cos(math.pi * done)))


@dataclass(frozen=True)
class Evaluate:
    """How often a run scores what it would end with, on clips that it is given beside those that it trains on.

    The scores go into the log; they change no weight. The clips are no part of a recipe (`training.loop.train`, judge).

    every_steps   optimizer steps from one evaluation to the next; the last step of the run is always followed by one
    tasks         "zero-shot" of the clips with a label, "retrieval" among those with captions; what the clips allow
    templates     sentences that zero-shot makes of class names; the vectors of a class are averaged
    """

    every_steps: int = 200
    tasks: tuple[str, ...] = get_args(Task)
    templates: tuple[str, ...] = (DEFAULT,)

    def __post_init__(self) -> None:
        for name in ("tasks", "templates"):
            if isinstance(getattr(self, name), str) or not getattr(self, name):
                raise SpecError(f"evaluate.{name} is a list of texts, not empty, and not {getattr(self, name)!r}")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if type(self.every_steps) is not int or self.every_steps < 1:
            raise SpecError(f"evaluate.every_steps is a number of steps, 1 or more, not {self.every_steps!r}")
        for task in self.tasks:
            if task not in get_args(Task):
                raise SpecError(f"evaluate.tasks cannot hold {task!r}; {nearest_name(str(task), get_args(Task))}")
        for template in self.templates:
            fill(template, "bell")


@dataclass(frozen=True)
class Stage:
    """One stretch of a run that goes through several, one after the other.

    share      of the run's steps, in proportion to the shares of the other stages
    frozen     names of parts and parameters that do not learn in it: "audio" is the whole tower, "audio.layers.0" a
               part of it. They are in eval mode. What the recipe freezes anyway is frozen in every stage
    objective  what is minimised; None: the recipe's
    lr         peak learning rate; None: the recipe's. Each stage warms up and cools down by itself, the optimizer's
               memory of earlier gradients goes on
    """

    share: float = 1.0
    frozen: tuple[str, ...] = ()
    objective: Any = None
    lr: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.frozen, str):
            raise SpecError(f"frozen is a tuple of names, not the text {self.frozen!r}: write ({self.frozen!r},)")
        object.__setattr__(self, "frozen", tuple(self.frozen))
        if not 0 < self.share < math.inf:
            raise SpecError(f"share has to be a number above 0, not {self.share}")
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise SpecError(f"lr has to be a number above 0, or none for the recipe's, not {self.lr}")


@dataclass(frozen=True)
class TuneSettings:
    """How a given model is changed by training it further.

    learns        "full": both towers and heads. "audio": the sound side, tower and head; every text keeps its vector
                  (locked text, LiT, Zhai et al. 2022), and texts cost nothing because their vectors are cached.
                  "heads": both heads, over towers that stay as they are. "audio_head": the head of the sound side
                  alone. The temperature learns with each of them
    tower_rate    the learning rate of the towers is that of the heads times this: what was pretrained for weeks is
                  soon lost at the rate that a head needs
    layer_decay   that of a block is that of its tower times `layer_decay` to the power of its depth, counted from the
                  top block down (`training.tuning.rate_shares`); 1 treats all blocks alike
    batch_norm    "frozen": the running statistics of the given model are used and kept, because those of a small batch
                  of new sound would replace them; "live": as in training from nothing
    blend         the result is (1 - blend) x given weights + blend x trained ones (WiSE-FT, Wortsman et al. 2022):
                  0 gives the given model back, 1 what training ended with
    lora_rank     low-rank adapters learn in place of the weights (`training.lora`): beside every linear layer in the
                  blocks of the audio tower and, with learns="heads" or "full", of the text tower. Whatever else the
                  model has stays to the bit, heads, temperature and statistics too. Adapters learn at the rate of a
                  head: `tower_rate` and `layer_decay` are for weights that were trained before. None: no adapters
    lora_alpha    what they add counts lora_alpha / lora_rank times; None: twice the rank
    """

    learns: Learns = "audio_head"
    tower_rate: float = 0.1
    layer_decay: float = 0.75
    batch_norm: BatchNorm = "frozen"
    blend: float = 1.0
    lora_rank: int | None = field(default=None, metadata={"omit_default": True})
    lora_alpha: float | None = field(default=None, metadata={"omit_default": True})

    def __post_init__(self) -> None:
        for name, known in (("learns", get_args(Learns)), ("batch_norm", get_args(BatchNorm))):
            if getattr(self, name) not in known:
                raise SpecError(
                    f"{name} cannot be {getattr(self, name)!r}; {nearest_name(str(getattr(self, name)), known)}"
                )
        for name in ("tower_rate", "layer_decay"):
            if not 0 < getattr(self, name) <= 1:
                raise SpecError(f"{name} is a factor above 0 and at most 1, not {getattr(self, name)}")
        if not 0 <= self.blend <= 1:
            raise SpecError(f"blend is a share between 0 and 1, not {self.blend}")
        self._check_lora()

    def _check_lora(self) -> None:
        rank, alpha = self.lora_rank, self.lora_alpha
        if rank is not None and (type(rank) is not int or rank < 1):
            raise SpecError(f"lora_rank is a whole number, 1 or more, or none for no adapters, not {rank!r}")
        if alpha is not None and not (isinstance(alpha, (int, float)) and 0 < alpha < math.inf):
            raise SpecError(f"lora_alpha has to be a number above 0, or none for twice the rank, not {alpha!r}")
        if alpha is not None and rank is None:
            raise SpecError(f"lora_alpha={alpha} belongs to adapters, and there are none: set lora_rank too")
        if rank is not None and self.batch_norm != "frozen":
            raise SpecError(f"with lora_rank={rank} the model stays as it is, so batch_norm has to be 'frozen'")
