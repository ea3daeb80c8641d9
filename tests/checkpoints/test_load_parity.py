"""`clapkit.load` on files of every family gives the numbers of the reference implementations (random weights).

Everything a user meets is on the way: the file with its wrapper, recognition, rules, front-end, windows, tower, head.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from oracle import Oracle, close_embeddings

import clapkit

# folder -> family; what the embeddings of the waves are called, one by one or all in one array
DUAL = {
    "laion_clap_htsat_tiny": "laion",
    "laion_clap_htsat_tiny_fusion": "laion",
    "laion_clap_htsat_base_music": "laion",
    "msclap_2022_cnn14_bert": "msclap",
    "msclap_2023_htsat_gpt2": "msclap",
    "m2d_clap_2024_gte": "m2d",
    "m2d_clap_2025_bert": "m2d",
    "glap_dasheng_sonar": "glap",
    "openflam_v1_base": "flam",
    "open_clip_clap_htsat_tiny": "open_clip",
    "open_clip_clap_htsat_tiny_roberta_base": "open_clip",
    "open_clip_clap_htsat_tiny_roberta_base_fused": "open_clip",
}
SOUND_ALONE = {
    "msclap_clapcap_2023": ("clapcap", "audio_embedding"),
    "tinyclap_phinet_a0.75_b0.75_t4_n6": ("tinyclap", "audio_embedding_{i}"),
    "tinyclap_phinet_a1.5_b0.75_t6_n7": ("tinyclap", "audio_embedding_{i}"),
    "wav2clip": ("wav2clip", "audio_embedding_{i}"),
    "beats_iter3": ("beats", "features_mean_{i}"),
    "efficientat_mn10": ("efficientat", "audio_embedding_{i}"),
    "efficientat_mn04": ("efficientat", "audio_embedding_{i}"),
}


def file_of(oracle: Oracle, folder: Path) -> Path:
    """The checkpoint file that the layout stands for, with the wrapper it describes."""
    wrapper = oracle.layout["wrapper"]
    structure = wrapper["structure"]
    prefix = "module." if wrapper.get("prefix") == "module." else ""
    tensors = {prefix + name: tensor for name, tensor in oracle.tensors.items()}
    content: dict = tensors
    if "state_dict" in structure and isinstance(structure, dict):
        content = {"epoch": 3, "name": "model", "state_dict": tensors}
    elif isinstance(structure, dict) and "model" in structure:
        content = {"model": tensors, "epoch": 3}
        if "cfg" in structure or "config" in structure:
            content |= {"cfg": oracle.config, "config": oracle.config}
    path = folder / oracle.config.get("folder_name", "") / "checkpoint-300.pth"
    path.parent.mkdir(exist_ok=True)
    torch.save(content, path)
    return path


@pytest.fixture
def loaded(request, shared_oracles, tmp_path):
    oracle = Oracle(shared_oracles / request.param)
    path = file_of(oracle, tmp_path)
    del oracle.__dict__["tensors"]  # hundreds of megabytes
    clap = clapkit.load(path)
    path.unlink()
    return oracle, clap


@pytest.mark.parametrize("loaded", DUAL, indirect=True)
def test_dual_encoders(request, loaded):
    oracle, clap = loaded
    assert clap.family == DUAL[request.node.callspec.params["loaded"]]
    close_embeddings(clap.embed_audio(oracle.waves()), oracle.expected("audio_embedding"))
    ids = np.array(oracle.inputs["token_ids"])
    close_embeddings(clap.embed_tokens(ids), oracle.expected("text_embedding"))
    if oracle.inputs.get("attention_mask"):
        masked = clap.embed_tokens(ids, np.array(oracle.inputs["attention_mask"]))
        close_embeddings(masked, oracle.expected("text_embedding"))
    if "mixed_audio_embedding" in oracle.layout["expected"]:
        mixed = [oracle.waves()[1], *oracle.waves("long_waves")]
        close_embeddings(clap.embed_audio(mixed), oracle.expected("mixed_audio_embedding"))


@pytest.mark.parametrize("loaded", SOUND_ALONE, indirect=True)
def test_files_that_hold_the_sound_side_alone(request, loaded):
    oracle, clap = loaded
    family, key = SOUND_ALONE[request.node.callspec.params["loaded"]]
    assert clap.family == family
    waves = oracle.waves()
    keys = [key.format(i=i) for i in range(len(waves))] if "{i}" in key else [key]
    wanted = np.concatenate([np.atleast_2d(oracle.expected(k)) for k in keys])
    close_embeddings(clap.embed_audio(waves), wanted)
    with pytest.raises(clapkit.errors.TextTowerError, match="text="):
        clap.embed_text(["a dog"])
