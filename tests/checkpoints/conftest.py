"""A small published-looking model for the tests of loading, converting and tuning."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

AUDIO = {
    "patch_embeds_hidden_size": 16,
    "hidden_size": 128,
    "depths": [1, 2, 1, 1],
    "num_attention_heads": [1, 2, 4, 8],
}
TEXT = {
    "vocab_size": 300,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "intermediate_size": 96,
    "max_position_embeddings": 514,
    "pad_token_id": 1,
    "layer_norm_eps": 1e-5,  # what the layout of LAION has, so that a conversion changes nothing
}


@pytest.fixture(scope="session")
def small_clap(tmp_path_factory) -> Path:
    """The folder of a transformers ClapModel with random weights, about 2 MB, without tokenizer."""
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

    config = ClapConfig(audio_config=AUDIO, text_config=TEXT, projection_dim=32)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        model = ClapModel(config).eval()
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if tensor.is_floating_point() and tensor.ndim > 1:
                    tensor.copy_(torch.randn(tensor.shape) / tensor[0].numel() ** 0.5)
                elif name.endswith("batch_norm.running_mean"):
                    tensor.fill_(-30.0)
                elif name.endswith("batch_norm.running_var"):
                    tensor.fill_(400.0)
    folder = tmp_path_factory.mktemp("small_clap")
    model.save_pretrained(folder)
    ClapFeatureExtractor(frequency_min=50, frequency_max=14000, truncation="rand_trunc").save_pretrained(folder)
    return folder
