"""Microsoft CLAP: the models of 2022 (CNN14 and BERT) and 2023 (HTS-AT and GPT-2), and clapcap of 2023 (audio side).

Audio and text sides are told apart on their own, so that a file which combines them otherwise is read too.
"""

from __future__ import annotations

from typing import Any

from clapkit.audio.mel_settings import MSCLAP_2022, MSCLAP_2023
from clapkit.checkpoints.base import Foreign, Importer, Plan, Shapes
from clapkit.checkpoints.families.laion_towers import htsat_rules, htsat_tower
from clapkit.checkpoints.families.panns import cnn_rules, cnn_tower, filterbank_name, mel_settings, shape_of
from clapkit.checkpoints.rules import Computed, Drop, Rename, Rule
from clapkit.heads.projection import ResidualProjection
from clapkit.model import DualEncoder, Windowing
from clapkit.spec import Spec, spec
from clapkit.towers.hf import TransformersText

# What the names of each tower begin with.
_CNN, _HTSAT = "base.conv_block1.", "base.htsat."
_BERT, _GPT2 = "caption_encoder.base.encoder.layer.", "caption_encoder.base.h."
_BERT_WORDS, _GPT2_WORDS = "caption_encoder.base.embeddings.word_embeddings.weight", "caption_encoder.base.wte.weight"
_HEAD_WIDTH = 64  # of every published BERT and GPT-2; the number of heads leaves no trace in the shapes
_TEMPERATURE = 0.01  # exp(logit scale) is 100
_SUFFIX = " <|endoftext|>"


def _projection_rules(theirs: str, ours: str) -> tuple[Rule, ...]:
    """The head of these models: LayerNorm(a + linear2(gelu(a))), a = linear1(x)."""
    return (
        Rename(f"{theirs}projection.linear1.weight", f"{ours}.linear1.weight"),
        Rename(f"{theirs}projection.linear2.weight", f"{ours}.linear2.weight"),
        Rename(f"{theirs}projection.layer_norm.{{p}}", f"{ours}.norm.{{p}}"),
    )


def _has(shapes: Shapes, *starts: str) -> bool:
    """Whether a tower is there, be it with holes: what is missing in it is told later, by name."""
    return any(name.startswith(starts) for name in shapes)


def _audio(foreign: Foreign, prefix: str) -> tuple[dict[str, Any], tuple[Rule, ...]]:
    """Arguments of the DualEncoder, and the rules, of the audio encoder whose names begin with `prefix`."""
    shapes = foreign.shapes
    inner, base, window_s = f"{prefix}base.", MSCLAP_2022, 5.0
    if transformer := _has(shapes, prefix + _HTSAT):
        inner, base, window_s = f"{prefix}base.htsat.", MSCLAP_2023, 7.0
    settings = mel_settings(shapes, inner, base=base)
    if transformer:
        tower = htsat_tower(foreign, inner, frames_in=settings.frames(round(window_s * settings.rate_hz)))
        rules = htsat_rules(inner)
    else:
        tower, rules = cnn_tower(shapes, inner), cnn_rules(shapes, inner)
    arguments = {
        "frontend": settings,
        "audio": tower,
        "audio_head": spec(ResidualProjection),
        "dimension": shape_of(shapes, f"{prefix}projection.linear1.weight", axes=2)[0],
        "windowing": Windowing(window_s=window_s, hop_s=window_s / 2, fill="repeat"),
    }
    return arguments, (*rules, *_projection_rules(prefix, "audio_head"))


def _filterbank(shapes: Shapes, prefix: str) -> str | None:
    return filterbank_name(shapes, f"{prefix}base.") or filterbank_name(shapes, f"{prefix}base.htsat.")


def _audio_notes(arguments: dict[str, Any]) -> tuple[str, ...]:
    window_s = arguments["windowing"].window_s
    return (
        f"sound shorter than {window_s:g} s is repeated and cut there, as in the reference",
        f"longer sound is heard in windows of {window_s:g} s that are averaged; the reference draws one at random",
    )


def _bert(foreign: Foreign) -> Spec:
    shapes = foreign.shapes
    base = "caption_encoder.base."
    vocabulary, width = shape_of(shapes, _BERT_WORDS, axes=2)
    positions, _ = shape_of(shapes, f"{base}embeddings.position_embeddings.weight", axes=2)
    types, _ = shape_of(shapes, f"{base}embeddings.token_type_embeddings.weight", axes=2)
    inner, _ = shape_of(shapes, f"{base}encoder.layer.0.intermediate.dense.weight", axes=2)
    config = {
        "model_type": "bert",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": foreign.count(f"{base}encoder.layer.{{i}}.output.dense.weight"),
        "num_attention_heads": max(1, width // _HEAD_WIDTH),
        "intermediate_size": inner,
        "max_position_embeddings": positions,
        "type_vocab_size": types,
    }
    return spec(TransformersText, config=config, pooling="cls", max_tokens=min(100, positions))


def _gpt2(foreign: Foreign) -> Spec:
    shapes = foreign.shapes
    base = "caption_encoder.base."
    vocabulary, width = shape_of(shapes, _GPT2_WORDS, axes=2)
    positions, _ = shape_of(shapes, f"{base}wpe.weight", axes=2)
    _, inner = shape_of(shapes, f"{base}h.0.mlp.c_fc.weight", axes=2)
    config = {
        "model_type": "gpt2",
        "vocab_size": vocabulary,
        "n_embd": width,
        "n_layer": foreign.count(f"{base}h.{{i}}.mlp.c_fc.weight"),
        "n_head": max(1, width // _HEAD_WIDTH),
        "n_inner": inner,
        "n_positions": positions,
    }
    return spec(
        TransformersText,
        config=config,
        pooling="last_id",
        max_tokens=min(77, positions),
        pad_id=0,
        suffix=_SUFFIX,
    )


_TEXT_RULES: tuple[Rule, ...] = (
    Computed("caption_encoder.base.embeddings.position_ids", "a row of counting numbers"),
    Computed("caption_encoder.base.embeddings.token_type_ids", "a row of zeros"),
    Computed("caption_encoder.base.h.{i}.attn.bias", "a constant attention mask"),
    Computed("caption_encoder.base.h.{i}.attn.masked_bias", "a constant of the attention mask"),
    Drop("caption_encoder.base.pooler.dense.{p}", "a layer above the first token, which this model reads instead"),
    Drop("caption_encoder.base.lm_head.weight", "the output layer of a language model, tied to its embeddings"),
    Rename("caption_encoder.base.{rest*}", "text.encoder.{rest*}"),
    *_projection_rules("caption_encoder.", "text_head"),
    Rename("logit_scale", "logit_scale"),
)


_CAPTION_RULES: tuple[Rule, ...] = (
    Computed("gpt.transformer.h.{i}.attn.bias", "a constant attention mask"),
    Computed("gpt.transformer.h.{i}.attn.masked_bias", "a constant of the attention mask"),
    Drop("gpt.lm_head.weight", "output layer of the GPT-2 that writes captions, tied to its embeddings"),
    Drop("gpt.{rest*}", "the GPT-2 that writes captions; no part of an embedding"),
    Drop("clap_project.{rest*}", "turns an embedding into the prefix of a caption; no part of the embedding itself"),
)


def _recognises(shapes: Shapes) -> bool:
    audio = _has(shapes, f"audio_encoder.{_CNN}", f"audio_encoder.{_HTSAT}")
    return audio and _has(shapes, _BERT, _GPT2)


def _recognises_clapcap(shapes: Shapes) -> bool:
    return _has(shapes, f"clap.{_CNN}", f"clap.{_HTSAT}") and _has(shapes, "clap_project.")


def _plan(foreign: Foreign) -> Plan:
    arguments, rules = _audio(foreign, "audio_encoder.")
    bert = _has(foreign.shapes, _BERT)
    text = _bert(foreign) if bert else _gpt2(foreign)
    notes = _audio_notes(arguments)
    if not bert:
        notes = (
            *notes,
            f"texts end with '{_SUFFIX}' and short rows are filled with '!' (id 0), as in the reference; the text "
            "vector stands at the number of ids other than 0, so a '!' inside a text moves it",
        )
    return Plan(
        model=spec(DualEncoder, text=text, text_head=spec(ResidualProjection), **arguments),
        rules=(*rules, *_TEXT_RULES),
        tokenizer="bert-base-uncased" if bert else "gpt2",
        pad_id=0,
        filterbank=_filterbank(foreign.shapes, "audio_encoder."),
        notes=notes,
    )


def _plan_clapcap(foreign: Foreign) -> Plan:
    arguments, rules = _audio(foreign, "clap.")
    return Plan(
        model=spec(DualEncoder, text=None, text_head=None, temperature=_TEMPERATURE, **arguments),
        rules=(*rules, *_CAPTION_RULES),
        filterbank=_filterbank(foreign.shapes, "clap."),
        notes=(*_audio_notes(arguments), "the file has no logit scale: 100, the highest in use, is taken"),
        no_text="clapcap files hold the audio side of Microsoft CLAP 2023 and a caption writer, no text encoder; its "
        "text side goes with them: give text=<path of CLAP_weights_2023.pth>",
    )


IMPORTERS = (
    Importer(
        family="msclap",
        about="Microsoft CLAP: CLAP_weights_2022.pth, CLAP_weights_2023.pth",
        recognises=_recognises,
        plan=_plan,
        licence="MIT",
    ),
    Importer(
        family="clapcap",
        about="the audio side of Microsoft's caption writer: clapcap_weights_2023.pth",
        recognises=_recognises_clapcap,
        plan=_plan_clapcap,
        licence="MIT",
    ),
)
