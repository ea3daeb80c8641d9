"""Token ids against the tokenizers library one text at a time, and every way to be given nonsense."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tokenizers import Tokenizer

from clapkit.errors import TextTowerError
from clapkit.text.locate import find_text_model
from clapkit.text.tokenizers import TextTokenizer, write_byte_tokenizer

TEXTS = ["a dog barks", "", "Ünïcode, 雨の音 and émotion", "rain on a tin roof " * 60, "x"]


@pytest.fixture
def byte_folder(tmp_path):
    write_byte_tokenizer(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def minilm():
    try:
        return find_text_model()
    except TextTowerError:
        pytest.skip("no text model on this machine")


def test_byte_tokens_are_the_bytes_of_the_text(byte_folder):
    tokenizer = TextTokenizer(byte_folder)
    ids_BL, mask_BL = tokenizer.encode(["héé", "", "é"])
    assert ids_BL.dtype == np.int64 and mask_BL.dtype == bool
    assert mask_BL.sum(1).tolist() == [7, 2, 4]  # two framing tokens and one token a byte
    assert ids_BL[1].tolist() == [1, 2, 0, 0, 0, 0, 0]
    assert ids_BL[0, 2:4].tolist() == ids_BL[0, 4:6].tolist() == ids_BL[2, 1:3].tolist()
    assert ids_BL.max() < tokenizer.vocabulary_size == 259


def test_minilm_agrees_with_the_library_one_text_at_a_time(minilm):
    reference = Tokenizer.from_file(str(minilm / "tokenizer.json"))
    reference.no_padding()
    ids_BL, mask_BL = TextTokenizer(minilm, max_tokens=128).encode(TEXTS)
    for text, ids_L, mask_L in zip(TEXTS, ids_BL, mask_BL, strict=True):
        expected = reference.encode(text).ids
        assert ids_L[: len(expected)].tolist() == expected
        assert mask_L.tolist() == [i < len(expected) for i in range(len(ids_L))]
        assert (ids_L[len(expected) :] == 0).all()


def test_rows_are_as_long_as_the_longest_text_and_not_longer(minilm):
    """The file of MiniLM asks for rows of 128."""
    assert TextTokenizer(minilm).encode(["a dog", "a cat and a dog"])[0].shape == (2, 7)


def test_cut_texts_are_counted_over_calls_and_keep_their_framing(byte_folder):
    tokenizer = TextTokenizer(byte_folder, max_tokens=6)
    ids_BL, _ = tokenizer.encode(["abcd", "abcde", "abcdefghijklmnopqrstuvwxyz"])
    assert ids_BL.shape == (3, 6) and (ids_BL[:, 0] == 1).all() and (ids_BL[:, -1] == 2).all()
    assert (ids_BL == ids_BL[0]).all()
    tokenizer.encode(["123456789", "1"])
    assert tokenizer.truncated_texts == 3


def test_no_texts_give_no_rows(byte_folder):
    ids_BL, mask_BL = TextTokenizer(byte_folder).encode([])
    assert ids_BL.shape == mask_BL.shape == (0, 0)


def test_an_empty_text_without_framing_tokens_still_has_one_token(byte_folder):
    edit(byte_folder, post_processor=None)
    ids_BL, mask_BL = TextTokenizer(byte_folder).encode(["", "ab"])
    assert ids_BL[0].tolist() == [0, 0] and mask_BL.tolist() == [[True, False], [True, True]]


@pytest.mark.parametrize(
    ("given", "named"), [(["a", None], r"texts\[1\] is NoneType"), ([7], r"texts\[0\] is int \(7\)")]
)
def test_what_is_no_text_is_named_with_its_place(byte_folder, given, named):
    with pytest.raises(TextTowerError, match=named):
        TextTokenizer(byte_folder).encode(given)


def test_a_single_string_is_not_taken_for_a_list_of_letters(byte_folder):
    with pytest.raises(TextTowerError, match=r"write \['dog'\]"):
        TextTokenizer(byte_folder).encode("dog")


def test_the_pad_id_comes_from_the_file_then_from_its_configuration(byte_folder):
    edit(byte_folder, padding=None)
    assert TextTokenizer(byte_folder).pad_id == 0  # [PAD] by its name
    configure = byte_folder / "tokenizer_config.json"
    configure.write_text(json.dumps({"pad_token": {"content": "[SEP]"}}))
    assert TextTokenizer(byte_folder).pad_id == 2
    configure.write_text("{")
    with pytest.raises(TextTowerError, match=r"tokenizer_config\.json cannot be read"):
        TextTokenizer(byte_folder)


def test_a_tokenizer_without_any_padding_token_is_refused(byte_folder):
    content = json.loads((byte_folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = {("[NIL]" if k == "[PAD]" else k): v for k, v in content["model"]["vocab"].items()}
    edit(byte_folder, padding=None, model={**content["model"], "vocab": vocabulary}, added_tokens=[])
    with pytest.raises(TextTowerError, match=r"names no padding token"):
        TextTokenizer(byte_folder)


def test_a_saved_tokenizer_is_the_same_without_the_first_folder(byte_folder, tmp_path):
    (byte_folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[SEP]"}))
    edit(byte_folder, padding=None)
    first = TextTokenizer(byte_folder, max_tokens=9)
    expected = first.encode(TEXTS)
    (byte_folder / "tokenizer.json").unlink()
    saved = first.save(tmp_path / "new" / "text")
    again = TextTokenizer(saved.parent, max_tokens=9)
    assert all((a == b).all() for a, b in zip(again.encode(TEXTS), expected, strict=True))
    assert again.pad_id == first.pad_id == 2


def test_unusable_folders_are_named(tmp_path, byte_folder):
    with pytest.raises(TextTowerError, match=r"empty has no tokenizer\.json"):
        TextTokenizer(tmp_path / "empty")
    with pytest.raises(TextTowerError, match="max_tokens is 2, but 2 of them"):
        TextTokenizer(byte_folder, max_tokens=2)
    (byte_folder / "tokenizer.json").write_text("{}")
    with pytest.raises(TextTowerError, match="cannot be read as a tokenizer"):
        TextTokenizer(byte_folder)


def edit(folder, **changes):
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def test_a_suffix_ends_every_text_and_another_pad_id_fills_the_rows(byte_folder):
    plain, quirk = TextTokenizer(byte_folder), TextTokenizer(byte_folder, suffix="!?", pad_id=5)
    ids_BL, mask_BL = quirk.encode(["rain", ""])
    assert ids_BL[0].tolist() == plain.encode(["rain!?"])[0][0].tolist()
    assert ids_BL[1].tolist() == [*plain.encode(["!?"])[0][0].tolist(), 5, 5, 5, 5]
    assert mask_BL.sum(1).tolist() == [8, 4]


def test_a_long_text_loses_its_suffix(byte_folder):
    ids_BL, _ = TextTokenizer(byte_folder, max_tokens=6, suffix="!").encode(["abcdefgh"])
    assert ids_BL.tolist() == TextTokenizer(byte_folder).encode(["abcd"])[0].tolist()


def test_a_given_pad_id_is_saved(byte_folder, tmp_path):
    again = TextTokenizer(TextTokenizer(byte_folder, pad_id=7).save(tmp_path / "saved").parent)
    assert again.pad_id == 7


def test_a_pad_id_that_is_no_token_is_refused(byte_folder):
    with pytest.raises(TextTowerError, match=r"pad_id=259 is no token.*which has 259"):
        TextTokenizer(byte_folder, pad_id=259)
