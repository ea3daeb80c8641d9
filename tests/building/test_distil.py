"""A sentence encoder made into a table."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from clapkit.building.released.distil import distil, teach, write
from clapkit.errors import DataError
from clapkit.text.tokenizers import TextTokenizer
from clapkit.towers.hf import TransformersText
from clapkit.towers.static import static_text

WORDS = ("dog", "bark", "rain", "bell", "hum", "saw")


@pytest.fixture
def tokenizer(tiny_text_folder):
    return TextTokenizer(tiny_text_folder, max_tokens=40)


def sentences(count: int = 300) -> list[str]:
    rng = np.random.default_rng(0)
    made = (" ".join(WORDS[i] for i in rng.integers(len(WORDS), size=rng.integers(1, 5))) for _ in range(count))
    return list(dict.fromkeys(made))


def test_it_solves_the_least_squares_that_it_states(tokenizer):
    """Against the dense normal equations, with the weight of the table's squares as the module states it."""
    texts = sentences()
    vectors = F.normalize(torch.randn(len(texts), 24, generator=torch.Generator().manual_seed(1)), dim=1)
    found = distil(texts, vectors, tokenizer, width=8, steps=200)
    ids, mask = tokenizer.encode(texts)
    shares = np.zeros((len(texts), tokenizer.vocabulary_size))
    for row, (numbers, real) in enumerate(zip(ids, mask, strict=True)):
        for number in numbers[real]:
            shares[row, number] += 1 / real.sum()
    wanted = F.normalize(vectors @ found.turn_WD, dim=1).double().numpy()
    table = np.linalg.solve(shares.T @ shares + 0.003 * np.eye(shares.shape[1]), shares.T @ wanted)
    made = (found.tower.table_VD.float() * found.tower.step_V[:, None]).numpy()
    assert np.abs(made - table).max() <= np.abs(table).max() / 254 + 1e-4
    assert found.cosine == pytest.approx(float((F.normalize(torch.from_numpy(shares @ table)) * torch.from_numpy(
        wanted)).sum(1).mean()), abs=1e-3)  # fmt: skip


def test_what_is_a_mean_of_tokens_is_found_exactly(tokenizer):
    """If the encoder itself were a table, the distilled one would be it, turned."""
    texts = sentences()
    truth = torch.randn(tokenizer.vocabulary_size, 12, generator=torch.Generator().manual_seed(2))
    ids, mask = (torch.from_numpy(a) for a in tokenizer.encode(texts))
    sums = (truth[ids] * mask[..., None]).sum(1)
    found = distil(texts, F.normalize(sums, dim=1), tokenizer, width=12, steps=200)
    assert found.kept == pytest.approx(1) and found.cosine > 0.97


def test_directions_are_orthonormal_and_the_strongest(tokenizer):
    texts = sentences()
    vectors = F.normalize(torch.randn(len(texts), 6) * torch.tensor([9.0, 8, 0.1, 0.1, 0.1, 0.1]), dim=1)
    found = distil(texts, vectors, tokenizer, width=2, steps=5)
    torch.testing.assert_close(found.turn_WD.T @ found.turn_WD, torch.eye(2))
    assert found.turn_WD[:2].square().sum() == pytest.approx(2, abs=0.01) and found.kept > 0.99


def test_teaching_goes_on_where_it_was_stopped(tiny_text_folder, tokenizer, tmp_path):
    teacher = TransformersText.from_folder(tiny_text_folder)
    texts = sentences()

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        teach(texts, teacher, tokenizer, folder=tmp_path, progress=stop)
    seen: list[int] = []
    vectors = teach(texts, teacher, tokenizer, folder=tmp_path, progress=lambda done, total: seen.append(done))
    assert seen[0] == min(256, len(texts)) and seen[-1] == len(texts)
    ids, mask = (torch.from_numpy(a) for a in tokenizer.encode(texts[:20]))
    with torch.no_grad():
        wanted = F.normalize(teacher(ids, mask).summary_BD, dim=1)
    assert (vectors[:20] * wanted).sum(1).min() > 0.999, "half precision and bf16"
    again: list[int] = []
    teach(texts, teacher, tokenizer, folder=tmp_path, progress=lambda done, total: again.append(done))
    assert not again, "everything is there"
    teach(texts[:5], teacher, tokenizer, folder=tmp_path)
    assert len(list(tmp_path.glob("teacher-*.npy"))) == 2, "other texts have a file of their own"


def test_the_folder_is_read_by_the_tower_and_needs_no_transformers(tokenizer, tmp_path):
    texts = sentences()
    found = distil(texts, F.normalize(torch.randn(len(texts), 8), dim=1), tokenizer, width=4, steps=5)
    write(found, tmp_path / "text", tokenizer=tokenizer)
    tower, reader = static_text(str(tmp_path / "text")), TextTokenizer(tmp_path / "text", max_tokens=40)
    ids, mask = (torch.from_numpy(a) for a in reader.encode(texts[:3]))
    assert torch.equal(tower(ids, mask).summary_BD, found.tower(ids, mask).summary_BD)
    assert np.array_equal(np.load(tmp_path / "text" / "turn.npy"), found.turn_WD.numpy())


def test_more_directions_than_there_are_is_refused(tokenizer):
    with pytest.raises(DataError, match="width=9: the encoder has 8"):
        distil(["dog"], torch.ones(1, 8), tokenizer, width=9)
