"""Names are indexed with their words apart (`kickDrum01`: kick, drum, 01); what is looked up has to be split alike."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("lancedb")

from clapkit.search.rows import Row
from clapkit.search.store import Store


@pytest.mark.parametrize("text", ["kickDrum01", "kick_drum-01", "kick drum 01", "01"])
def test_a_name_is_found_by_itself(tmp_path, text):
    rows = [Row(f"{name}.wav", 0, 0.0, 1.0, "h", "p") for name in ("kickDrum01", "snareDrum02", "rain")]
    with Store.create(tmp_path / "s", space_id="a", pipeline_id="p", dimension=3) as store:
        store.add(rows, np.eye(3))
        assert store.view.words(text, 3)[0][0] == rows[0].id
