"""An IP-Adapter with random weights for a tiny UNet."""

from __future__ import annotations

from typing import Any

import torch


def load_ip_adapter(pipe: Any) -> None:
    """Load one into the UNet of a tiny Stable Diffusion 1, for image embeddings of 8 numbers."""
    torch.manual_seed(4)
    keys = {}
    for index, name in enumerate(n for n in pipe.unet.attn_processors if "attn2" in n):
        size = pipe.unet.get_submodule(name.removesuffix(".processor")).to_k.weight.shape
        keys |= {f"{2 * index + 1}.to_{part}_ip.weight": torch.randn(size) for part in "kv"}
    image = {"proj.weight": torch.randn(4 * 16, 8), "proj.bias": torch.zeros(4 * 16)}
    norm = {"norm.weight": torch.ones(16), "norm.bias": torch.zeros(16)}
    pipe.unet._load_ip_adapter_weights([{"image_proj": image | norm, "ip_adapter": keys}])
