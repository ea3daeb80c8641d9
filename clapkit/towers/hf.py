"""Text towers from the transformers library: any encoder it knows, built from its configuration alone.

A saved model keeps the configuration and the weights, so it is rebuilt without the folder it once came from and
without any code from outside the library.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_args

import torch
from torch import nn
from torch.nn.modules import module as hooks
from torch.overrides import TorchFunctionMode

from clapkit.errors import ClapkitError, MissingExtraError, ModelError, TextTowerError, nearest_name
from clapkit.nets.output import TowerOutput
from clapkit.spec import Spec, spec

Pooling = Literal["mean", "cls", "pooler", "last", "last_id"]

# Not part of the architecture: where it came from, how it was stored, and what would fetch code or kernels.
_DROPPED_SETTINGS = (
    *("_name_or_path", "architectures", "transformers_version"),
    *("dtype", "torch_dtype", "quantization_config"),
    *("auto_map", "_attn_implementation", "attn_implementation", "_attn_implementation_internal"),
    *("_experts_implementation", "experts_implementation"),
)

# Tensors of a checkpoint that the encoder has no place for, and why they may go.
_DROPPED_KEYS = (
    (re.compile(r"(^|\.)position_ids$"), "a row of counting numbers, made again when the model is built"),
    (re.compile(r"^pooler\."), "a layer above the encoder that this pooling does not use"),
    (re.compile(r"^(cls|lm_head|qa_outputs|classifier)\."), "the output layer of another task"),
    (re.compile(r"\.attn\.(masked_)?bias$"), "a constant attention mask"),
)
_OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}

# A configuration larger than this is none, and a size larger than this is no size of an encoder.
_MOST_CONFIG_BYTES = 4 * 2**20
_MOST_SIZE = 2**24
# What may be built beyond the tensors of a file: layers that are taken away again, tables that are computed.
_SPARE_MODULES, _SPARE_NUMBERS, _MOST_TABLE_NUMBERS = 2000, 2**24, 2**26

_T = TypeVar("_T")


class TransformersText(nn.Module):
    """A transformers encoder as text tower; `forward(ids_BL, mask_BL)`, the mask True at tokens.

    config      what config.json of the model says ("model_type" and sizes); plain data, so that it can be saved
    pooling     how frames become one vector: "mean" over tokens, "cls" the first, "last" the last token,
                "pooler" the model's own output layer, "last_id" the token at (number of ids other than `pad_id`) - 1,
                whatever the mask says: a padding id inside a text counts as missing, as MS-CLAP 2023 has it
    max_tokens  longest input accepted, at most what the model has positions for
    pad_id      the id that fills short rows, where it is not the tokenizer's own; "last_id" needs it
    suffix      what the tokenizer has to append to every text (`TextTokenizer(suffix=...)`)

    The weights start as the library initialises a new model; `from_folder` loads trained ones. Always float32, whatever
    the checkpoint was stored in. Raises TextTowerError for a configuration that is unknown or does not fit.
    """

    ADDED_LATER: ClassVar[tuple[str, ...]] = ("pad_id", "suffix")

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        pooling: Pooling = "mean",
        max_tokens: int = 128,
        pad_id: int | None = None,
        suffix: str = "",
    ) -> None:
        super().__init__()
        if pooling not in get_args(Pooling):
            raise TextTowerError(f"there is no pooling '{pooling}'; {nearest_name(pooling, get_args(Pooling))}")
        if pooling == "last_id" and pad_id is None:
            raise TextTowerError("pooling 'last_id' counts the ids that are not padding: give pad_id")
        self.pad_id, self.suffix = pad_id, suffix
        self.config = {k: _plain(v) for k, v in config.items() if k not in _DROPPED_SETTINGS}
        self.pooling = pooling
        self.max_tokens = max_tokens
        self.encoder: Any = _build(self.config)
        self.width: int = self.encoder.config.hidden_size
        self.vocabulary_size: int = self.encoder.get_input_embeddings().num_embeddings
        positions = getattr(self.encoder.config, "max_position_embeddings", None)
        if positions is not None and not 0 < max_tokens <= positions:
            raise TextTowerError(f"max_tokens is {max_tokens}, but the model has positions for 1 to {positions}")
        if pooling != "pooler" and getattr(self.encoder, "pooler", None) is not None:
            # Weights that nothing reads would be saved, counted and decayed.
            self.encoder.pooler = None
        self.dropped: dict[str, str] = {}
        self.folder: Path | None = None  # where it was read from, with its tokenizer; None for one that was built

    @classmethod
    def from_folder(cls, folder: str | Path, *, pooling: Pooling = "mean", max_tokens: int = 128) -> TransformersText:
        """The encoder of a folder with config.json and model.safetensors, with its weights, in eval mode.

        Every tensor of the file is loaded or dropped with a reason (`.dropped`: key -> reason), and every weight of
        the encoder is given; anything else raises TextTowerError.
        """
        folder = Path(folder)
        config = read_config(folder)
        stored = _stored(folder / "model.safetensors")
        tower = build_to_fill(lambda: cls(config, pooling=pooling, max_tokens=max_tokens), stored)
        tower.dropped = _load_weights(tower.encoder, stored, folder / "model.safetensors")
        tower.folder = folder
        return tower.eval()

    def spec(self) -> Spec:
        """The Spec that builds this architecture again, from plain data and without the folder it came from."""
        later = {name: getattr(self, name) for name in self.ADDED_LATER if getattr(self, name) not in (None, "")}
        return spec(type(self), config=self.config, pooling=self.pooling, max_tokens=self.max_tokens, **later)

    def forward(self, ids_BL: torch.Tensor, mask_BL: torch.Tensor) -> TowerOutput:
        """One frame per token, and the pooled summary. Padding stands at the end of a row and changes nothing."""
        if ids_BL.shape[1] > self.max_tokens:
            raise TextTowerError(f"the texts are {ids_BL.shape[1]} tokens long, at most {self.max_tokens} are read")
        out = self.encoder(input_ids=ids_BL, attention_mask=mask_BL.to(ids_BL.dtype))
        frames_BTD = out.last_hidden_state
        counted_BL = ids_BL.ne(self.pad_id) if self.pooling == "last_id" and self.pad_id is not None else mask_BL
        return TowerOutput(frames_BTD, mask_BL, self._pool(frames_BTD, counted_BL, out))

    def _pool(self, frames_BTD: torch.Tensor, mask_BT: torch.Tensor, out: Any) -> torch.Tensor:
        if self.pooling == "mean":
            weights_BT1 = mask_BT.unsqueeze(-1).to(frames_BTD.dtype)
            return (frames_BTD * weights_BT1).sum(1) / weights_BT1.sum(1).clamp(min=1.0)
        if self.pooling == "cls":
            return frames_BTD[:, 0]
        if self.pooling in ("last", "last_id"):
            last_B = mask_BT.long().sum(1).clamp(min=1) - 1
            return frames_BTD[torch.arange(frames_BTD.shape[0], device=frames_BTD.device), last_B]
        if getattr(out, "pooler_output", None) is None:
            raise TextTowerError(f"a model of type '{self.config['model_type']}' has no pooler: use mean, cls or last")
        return out.pooler_output


def read_config(folder: str | Path) -> dict[str, Any]:
    """config.json of a model folder, without the entries that say nothing about the architecture."""
    path = Path(folder) / "config.json"
    try:
        if path.stat().st_size > _MOST_CONFIG_BYTES:
            raise TextTowerError(f"{path} is larger than {_MOST_CONFIG_BYTES >> 20} MiB: this is no configuration")
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TextTowerError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise TextTowerError(f"{path} holds {type(config).__name__}, expected an object")
    return {k: v for k, v in config.items() if k not in _DROPPED_SETTINGS}


class _SkipParameterFills(TorchFunctionMode):
    """Leaves out every in-place function whose target is a parameter: these are the initialisers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        target = args[0] if args else (kwargs or {}).get("tensor")  # torch.nn.init hands it over by name
        fills = name.endswith("_") and not name.endswith("__") and name != "requires_grad_"
        if fills and isinstance(target, nn.Parameter):
            return target
        return func(*args, **(kwargs or {}))


@contextmanager
def skip_initialisation() -> Iterator[None]:
    """Build modules whose parameters will all be overwritten: inside, they are not filled (their content is arbitrary).

    Buffers are made as usual. Holds for this thread only. The caller must load every parameter afterwards.
    """
    with _SkipParameterFills():
        yield


def build_to_fill(make: Callable[[], _T], tensors: Mapping[str, torch.Tensor]) -> _T:
    """What `make()` builds, uninitialised, if `tensors` can be what fills it; ModelError if it is far larger.

    A stranger wrote the sizes. So it is made twice: first without memory, to be measured, then in earnest.
    """
    for device in ("meta", None):
        with ExitStack() as stack:
            stack.enter_context(skip_initialisation())
            stack.enter_context(_measured(tensors))
            if device is None:
                return make()
            stack.enter_context(torch.device(device))
            try:
                make()
            except _TooLargeError:
                raise
            except Exception:
                pass
    raise AssertionError("the second round returns")


class _TooLargeError(ModelError):
    """More than the tensors of a file could fill."""


@contextmanager
def _measured(tensors: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Stops the building of a model, in this thread, when it has grown larger than twice these tensors."""
    here = threading.get_ident()
    held = sum(tensor.numel() for tensor in tensors.values())
    most = {
        "parameters": 2 * held + _SPARE_NUMBERS,
        "computed numbers": held + _MOST_TABLE_NUMBERS,
        "layers": 20 * len(tensors) + _SPARE_MODULES,
    }
    grown = dict.fromkeys(most, 0)

    def grow(what: str, count: int) -> None:
        if threading.get_ident() != here:
            return
        grown[what] += count
        if grown[what] > most[what]:
            raise _TooLargeError(
                f"its settings ask for more than {most[what]} {what}, and the file holds {len(tensors)} tensors with "
                f"{held} numbers: the settings are not those of the file"
            )

    def numbers(tensor: Any) -> int:
        return tensor.numel() if isinstance(tensor, torch.Tensor) else 0

    with ExitStack() as stack:
        for register, what, measure in (
            (hooks.register_module_parameter_registration_hook, "parameters", numbers),
            (hooks.register_module_buffer_registration_hook, "computed numbers", numbers),
            (hooks.register_module_module_registration_hook, "layers", lambda _: 1),
        ):
            handle = register(lambda _module, _name, value, w=what, m=measure: grow(w, m(value)))
            stack.callback(handle.remove)
        yield


def _plain(value: Any) -> Any:
    """Lists again where a saved configuration came back with tuples."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def _build(config: Mapping[str, Any]) -> Any:
    try:
        from transformers import AutoConfig, AutoModel
    except ImportError:
        raise MissingExtraError("transformers", "torch", "a transformers text tower") from None
    settings = dict(config)
    model_type = settings.pop("model_type", None)
    if not isinstance(model_type, str):
        raise TextTowerError("the configuration of a text encoder names its 'model_type', and this one does not")
    _check_config_sizes(settings)
    try:
        full = AutoConfig.for_model(model_type, **settings)
        if full.is_encoder_decoder:
            raise TextTowerError(f"'{model_type}' is an encoder with a decoder, a text tower is an encoder alone")
        full.use_cache = False
        return AutoModel.from_config(full, trust_remote_code=False).float()
    except ClapkitError:
        raise
    except Exception as error:  # the library checks values with errors of many kinds
        raise TextTowerError(f"no encoder can be built from the configuration of '{model_type}': {error}") from error


def _check_config_sizes(settings: Mapping[str, Any]) -> None:
    """Some configurations make lists as long as a size says, before a layer is built."""
    for name, size in settings.items():
        if isinstance(size, Mapping):
            _check_config_sizes(size)
        elif isinstance(size, int) and abs(size) > _MOST_SIZE and "theta" not in str(name):
            raise TextTowerError(f"the configuration has {name} = {size}, at most {_MOST_SIZE} is a size of an encoder")


def _stored(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise TextTowerError(f"{path} cannot be read: {error}") from error


def _load_weights(encoder: Any, stored: Mapping[str, torch.Tensor], path: Path) -> dict[str, str]:
    """Fill `encoder` with the tensors of `path`; returns the keys left out, with reasons."""
    prefix = f"{getattr(encoder, 'base_model_prefix', '')}."
    wanted = encoder.state_dict()
    weights, dropped, unknown = {}, {}, []
    for stored_key, tensor in stored.items():
        key = stored_key.removeprefix(prefix)
        for old, new in _OLD_NAMES.items():
            key = key.replace(old, new)
        reason = next((why for pattern, why in _DROPPED_KEYS if pattern.search(key)), None)
        if key in wanted:
            weights[key] = tensor
        elif reason:
            dropped[stored_key] = reason
        else:
            unknown.append(stored_key)
    problems = [f"{key} has no place" for key in unknown]
    problems += [f"{key} is missing" for key in sorted(wanted.keys() - weights.keys())]
    problems += [
        f"{key} is {tuple(weights[key].shape)}, expected {tuple(wanted[key].shape)}"
        for key in weights
        if weights[key].shape != wanted[key].shape
    ]
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise TextTowerError(f"{path} does not fit its config.json ({encoder.config.model_type}): {shown}")
    encoder.load_state_dict(weights)
    return dropped


tiny = spec(
    TransformersText,
    config={
        "model_type": "bert",
        "vocab_size": 259,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
    },
    pooling="mean",
    max_tokens=128,
)
