"""What a weight is called elsewhere: in LoRA files of peft and kohya, and in the original single-file layout of UNets.

kohya's names are what ComfyUI and A1111 read: SD 1.x and 2.x by their diffusers path, SDXL by the original one.
"""

from __future__ import annotations

import re
from typing import Any

from efface.errors import EffaceError

_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_ENDS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2", "conv_norm_out": "out.0",
    "conv_out": "out.2",
}  # fmt: skip
CHECKPOINT = "model.diffusion_model."
"""Prefix of the UNet's tensors in a single-file checkpoint."""
KOHYA = {"stable-diffusion": "lora_te_", "stable-diffusion-xl": "lora_te1_"}


def original_unet(path: str, config: Any) -> str:
    """A UNet module's path in the original layout, from its diffusers path.

    Args:
        path: for example `down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_k`.
        config: the UNet's configuration.

    Raises:
        EffaceError: the original layout has no such module.
    """
    for ours, theirs in _ENDS.items():
        if path == ours:
            return theirs
    match = re.fullmatch(
        r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)((?:\..+)?)", path
    )
    if match:
        half, block, part, index, rest = match.groups()
        return _in_block(half, int(block), part, int(index), rest, config)
    match = re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)((?:\..+)?)", path)
    if match is None:
        raise EffaceError(f"the original layout of UNets has no module {path}: export to `diffusers` instead.")
    part, index, rest = match.groups()
    position = 1 if part == "attentions" else 2 * int(index)
    return f"middle_block.{position}{_inner(part, rest)}"


def _in_block(half: str, block: int, part: str, index: int, rest: str, config: Any) -> str:
    """The original path of a module in a block on the way down or up."""
    layers = _layers(config, block)
    if half == "down":
        first = 1 + block * (layers + 1)
        if part == "downsamplers":
            return f"input_blocks.{first + layers}.0.op"
        return f"input_blocks.{first + index}.{int(part == 'attentions')}{_inner(part, rest)}"
    first = block * (layers + 1)
    if part == "upsamplers":
        has_attention = "CrossAttn" in config["up_block_types"][block]
        return f"output_blocks.{first + layers}.{1 + has_attention}.conv"
    return f"output_blocks.{first + index}.{int(part == 'attentions')}{_inner(part, rest)}"


def _layers(config: Any, block: int) -> int:
    layers = config["layers_per_block"]
    if not isinstance(layers, int):
        raise EffaceError(f"block {block} of the UNet has its own number of layers, which the original layout has not.")
    return layers


def _inner(part: str, rest: str) -> str:
    """What follows a part, from its dot on; nothing for the part itself."""
    if part != "resnets" or not rest:
        return rest
    _, head, *tail = rest.split(".")
    return "".join(f".{name}" for name in (_RESNET.get(head, head), *tail))


def kohya_name(component: str, path: str, family: str, config: Any) -> str:
    """A module's name in kohya's LoRA files, without the ending.

    Args:
        component: of the pipeline: `unet` or a text encoder.
        path: of the module in it.
        family: name of the model's family.
        config: the component's configuration.

    Raises:
        EffaceError: kohya's scripts have no name for it.
    """
    if component == "unet" and family == "stable-diffusion":
        return f"lora_unet_{path}".replace(".", "_")
    if component == "unet" and family == "stable-diffusion-xl":
        return f"lora_unet_{original_unet(path, config)}".replace(".", "_")
    if component == "transformer" and family == "flux":
        # OneTrainer's names, which ComfyUI reads too; diffusers loses the text's entry under kohya's own (`txt_in`).
        return f"lora_transformer_{path}".replace(".", "_")
    prefixes = {
        "text_encoder": KOHYA.get(family),
        "text_encoder_2": "lora_te2_" if family == "stable-diffusion-xl" else None,
    }
    prefix = prefixes.get(component)
    if prefix is None:
        raise EffaceError(
            f"kohya's LoRA files have no name for {component}.{path} of {family}: use the keys of diffusers."
        )
    return f"{prefix}{_wrapped(path)}".replace(".", "_")


def diffusers_keys(component: str, path: str) -> tuple[str, str]:
    """The keys of a module's two factors, down and up, in diffusers' LoRA files.

    Args:
        component: of the pipeline.
        path: of the module in it.
    """
    if component.startswith("text_encoder"):
        # Of a text encoder diffusers knows peft's endings only where attention has factors too; its own it always knows.
        base = f"{component}.{_wrapped(path)}.lora_linear_layer"
        return f"{base}.down.weight", f"{base}.up.weight"
    return f"{component}.{path}.lora_A.weight", f"{component}.{path}.lora_B.weight"


def _wrapped(path: str) -> str:
    """A module's path in a CLIP text encoder with the wrapper that versions of transformers have and readers take off."""
    return path if path.startswith(("text_model.", "text_projection")) else f"text_model.{path}"


def split(name: str, components: Any) -> tuple[str, str, str]:
    """Component, module path and parameter of a full tensor name such as `unet.conv_in.weight`."""
    component = max((c for c in components if name.startswith(f"{c}.")), key=len, default="")
    path, _, parameter = name.removeprefix(f"{component}.").rpartition(".")
    return component, path, parameter
