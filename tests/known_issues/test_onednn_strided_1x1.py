"""oneDNN in torch 2.13 (avx2_1x1, weight gradient): a strided 1 x 1 convolution writes behind its buffer.

Seen with channels_last images of fewer than 16 channels and even sizes: the heap is damaged, and the process dies when
oneDNN later drops the next primitive from its cache, far from the cause (`free(): invalid pointer`). A cache of two
primitives brings that forward. No tower here has such a convolution: a stride is taken by indexing.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from torch import nn

from clapkit.towers import cnn14, htsat, mobilenet, phinet, resnet, resnet18, vit

TOWERS = {"resnet": resnet, "resnet18": resnet18, "mobilenet": mobilenet, "vit": vit}
TOWERS |= {"cnn14": cnn14, "phinet": phinet, "htsat": htsat}
SCRIPT = """
import torch
from clapkit.audio.features import Features
from clapkit.towers import {name}

for number in range(12):
    tower = {name}.tiny.build().train().to(memory_format=torch.channels_last)
    features = Features(torch.randn(3, 64, 64), torch.ones(3, 64, dtype=torch.bool))
    tower(features).summary_BD.square().sum().backward()
print("alive")
"""


@pytest.mark.parametrize("name", ["resnet18", "resnet"])
def test_training_leaves_the_heap_alone(name):
    environment = dict(os.environ, ONEDNN_PRIMITIVE_CACHE_CAPACITY="2")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(name=name)], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip()) == (0, "alive"), done.stderr[-500:]


@pytest.mark.parametrize("name", TOWERS)
def test_no_tower_has_such_a_convolution(name):
    for key, module in TOWERS[name].tiny.build().named_modules():
        if isinstance(module, nn.Conv2d):
            assert max(module.kernel_size) > 1 or max(module.stride) == 1, key
