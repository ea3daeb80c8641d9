"""Contrastive learning for words that were never heard: the text side is stretched where texts differ.

Differs from `contrastive`: `TextEmphasis` on the text side, placed before training from the texts of the data.
Run:     clapkit train open_words --data clips.jsonl --out run
Cost:    that of `contrastive`.  Effect: proofs/esc50_unseen.py: ten classes of ESC-50 never heard,
         31.1 % [28.2, 34.1] of chance 10, mean of three draws; with shuffled texts 10.3 %
"""

from clapkit.heads.emphasis import TextEmphasis
from clapkit.recipes.dual.contrastive import recipe as contrastive
from clapkit.spec import derive, spec

recipe = contrastive.but(model=derive(contrastive.model, text_head=spec(TextEmphasis, power=0.25)))
