"""The text tower that is a table."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from clapkit.errors import TextTowerError
from clapkit.spec import from_json, to_json
from clapkit.towers.static import TABLE_FILE, StaticText, static_text, tiny


def filled(vocabulary: int = 40, width: int = 16) -> tuple[StaticText, torch.Tensor]:
    table = torch.randn(vocabulary, width, generator=torch.Generator().manual_seed(0)) * torch.rand(vocabulary, 1) * 5
    tower = StaticText(vocabulary=vocabulary, width=width, max_tokens=12)
    tower.place(table)
    return tower.eval(), table


def test_a_sentence_is_the_mean_of_its_tokens_to_the_rounding():
    tower, table = filled()
    ids = [[3, 9, 9], [7, 1, 0]]
    out = tower(torch.tensor(ids), torch.tensor([[1, 1, 1], [1, 0, 0]]))
    wanted = torch.stack([(table[3] + 2 * table[9]) / 3, table[7]])
    half_step = table.abs().amax(1).max() / 254
    assert (out.summary_BD - wanted).abs().max() <= half_step * 1.0001
    assert not out.frames_BTD[1, 1:].any() and out.mask_BT.tolist() == [[True] * 3, [True, False, False]]


def test_every_number_is_within_half_a_step_of_its_token():
    tower, table = filled()
    back = tower.table_VD.float() * tower.step_V[:, None]
    assert ((back - table).abs() <= table.abs().amax(1, keepdim=True) / 254 * 1.0001).all()
    assert tower.table_VD.dtype == torch.int8 and tower.table_VD.abs().amax(1).eq(127).all()


def test_a_token_that_was_never_met_stays_zero():
    tower = StaticText(vocabulary=3, width=4)
    tower.place(torch.tensor([[0.0] * 4, [1, 2, 3, 4], [0, 0, 0, -1]]))
    out = tower(torch.tensor([[0]]), torch.ones(1, 1)).summary_BD
    assert torch.equal(out, torch.zeros(1, 4))


def test_order_is_not_told_and_padding_is_not_read():
    tower, _ = filled()
    one = tower(torch.tensor([[3, 9, 5]]), torch.ones(1, 3)).summary_BD
    other = tower(torch.tensor([[5, 3, 9, 30, 31]]), torch.tensor([[1, 1, 1, 0, 0]])).summary_BD
    torch.testing.assert_close(one, other)


def test_nothing_of_it_learns_and_its_spec_builds_it_again():
    tower, _ = filled()
    assert not list(tower.parameters())
    again = from_json(to_json(tower.spec())).build()
    again.load_state_dict(tower.state_dict())
    ids = torch.tensor([[4, 8]])
    assert torch.equal(again(ids, torch.ones(1, 2)).summary_BD, tower(ids, torch.ones(1, 2)).summary_BD)
    assert again.max_tokens == 12 and tiny.build().width == 32


def test_a_folder_gives_the_same_tower(tmp_path):
    tower, _ = filled()
    tower.save(tmp_path / "text")
    again = static_text(str(tmp_path / "text"), max_tokens=12)
    assert again.folder == tmp_path / "text" and (again.width, again.vocabulary_size) == (16, 40)
    assert torch.equal(again.table_VD, tower.table_VD) and torch.equal(again.step_V, tower.step_V)


def test_what_is_refused(tmp_path):
    tower, _ = filled()
    with pytest.raises(TextTowerError, match="13 tokens long, at most 12"):
        tower(torch.zeros(1, 13, dtype=torch.long), torch.ones(1, 13))
    with pytest.raises(TextTowerError, match=r"\[40, 16\] is expected, this is \[40, 8\]"):
        tower.place(torch.zeros(40, 8))
    with pytest.raises(TextTowerError, match="cannot be read as the table"):
        static_text(str(tmp_path))
    save_file({"table_VD": torch.zeros(4, 4)}, tmp_path / TABLE_FILE)
    with pytest.raises(TextTowerError, match=r"torch\.float32.*expected table_VD"):
        static_text(str(tmp_path))
