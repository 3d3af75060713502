"""The nodes: an erasure becomes patches of a ComfyUI model, which stay on its clone and never touch the model itself.

ComfyUI keeps UNets in the original layout of Stable Diffusion; `efface.export.names` says which of its modules is which.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import folder_paths  # of ComfyUI
import torch

from efface.erasures import ActivationEdit, Erasure, WeightDelta
from efface.erasures.text_erasure import TextErasure
from efface.errors import EffaceError
from efface.export.names import original_unet
from efface.families import Network
from efface.families.sites import Site

FOLDER = "efface"
"""Of ComfyUI's models folder; erasures are put there."""
folder_paths.add_model_folder_path(FOLDER, str(folder_paths.models_dir) + f"/{FOLDER}")


class _Node:
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "apply"
    CATEGORY = "efface"
    DESCRIPTION: ClassVar[str]

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 (the name is ComfyUI's)
        """What ComfyUI asks of every node: its inputs."""
        strength = {"default": 1.0, "min": -2.0, "max": 2.0, "step": 0.05}
        files = folder_paths.get_filename_list(FOLDER)
        return {"required": {"model": ("MODEL",), "erasure": (files,), "strength": ("FLOAT", strength)}}


class ApplyErasure(_Node):
    """A map of the text states, or a change of weights."""

    DESCRIPTION = "Erase a concept with a closed-form edit (UCE, RECE, …) or a change of weights."

    def apply(self, model: Any, erasure: str, strength: float) -> tuple[Any]:
        """The model with the erasure on; nodes in a row compose as attachments do, the last one reads the text first."""
        loaded, patched = opened(erasure), model.clone()
        if isinstance(loaded, TextErasure):
            patch = text_patch(loaded, strength)
            patched.set_model_attn2_patch(patch)
            held = patched.model_options["transformer_options"]["patches"]
            held["attn2_patch"] = [patch, *(p for p in held["attn2_patch"] if p is not patch)]
            if loaded.maps_pooled:
                before = patched.model_options.get("model_function_wrapper")
                patched.set_model_unet_function_wrapper(pooled_wrapper(loaded, strength, before))
        elif isinstance(loaded, WeightDelta):
            patched.add_patches(weight_patches(loaded, patched.model.diffusion_model), strength)
        else:
            raise EffaceError(f"{erasure} edits activations: use the node 'Apply autoencoder edit (efface)'.")
        return (patched,)


class ApplyAutoencoderEdit(_Node):
    """SAeUron: latents of sparse autoencoders, edited while the denoiser runs."""

    DESCRIPTION = "Erase a concept with an edit of sparse autoencoder latents (SAeUron)."

    def apply(self, model: Any, erasure: str, strength: float) -> tuple[Any]:
        """The model with hooks that are there only while its denoiser runs."""
        loaded, patched = opened(erasure), model.clone()
        if not isinstance(loaded, ActivationEdit):
            raise EffaceError(f"{erasure} is no autoencoder edit: use the node 'Apply erasure (efface)'.")
        before = patched.model_options.get("model_function_wrapper")
        unet = patched.model.diffusion_model
        network = Network("unet", unet, (), timestep_argument=("timesteps", 1))
        sites = {name: Site(name, module_of(unet, name)) for name in loaded.edits}

        def wrapper(run: Callable[..., Any], call: dict[str, Any]) -> Any:
            def edited(*args: Any, **kwargs: Any) -> Any:
                handles = loaded.hooks_at(network, sites, strength)
                try:
                    return run(*args, **kwargs)
                finally:
                    for handle in handles:
                        handle.remove()

            # Whatever wraps already stays outermost, so that its hooks are there first, as in a row of attachments.
            return before(edited, call) if before else edited(call["input"], call["timestep"], **call["c"])

        patched.set_model_unet_function_wrapper(wrapper)
        return (patched,)


def opened(name: str) -> Erasure:
    """The erasure of a file in ComfyUI's folder."""
    return Erasure.load(folder_paths.get_full_path(FOLDER, name))


def text_patch(erasure: TextErasure, strength: float) -> Callable[..., Any]:
    """A patch of every cross-attention: what keys and values are computed from passes through the map."""

    def patch(queries: Any, keys: torch.Tensor, values: torch.Tensor, options: Any) -> tuple[Any, Any, Any]:
        for states in (keys, values):
            if states.shape[-1] != erasure.width:
                raise EffaceError(
                    f"the erasure was made for text states {erasure.width} wide, this model's are {states.shape[-1]}: "
                    "use the model it was made for."
                )
        mapped = (erasure.map_both(states, None, strength)[0] for states in (keys, values))
        return queries, *mapped

    return patch


def pooled_wrapper(erasure: TextErasure, strength: float, before: Callable[..., Any] | None) -> Callable[..., Any]:
    """A wrapper of the UNet's call that maps the pooled text, which SDXL's vector `y` begins with; later nodes act first."""
    width = erasure.pooled_width

    def wrapper(run: Callable[..., Any], call: dict[str, Any]) -> Any:
        given = call["c"]
        labels = given.get("y")
        if labels is not None:
            _, vectors = erasure.map_both(given["c_crossattn"], labels[:, :width], strength)
            call = call | {"c": given | {"y": torch.cat([vectors, labels[:, width:]], dim=1)}}
        return before(run, call) if before else run(call["input"], call["timestep"], **call["c"])

    return wrapper


def weight_patches(erasure: WeightDelta, unet: Any) -> dict[str, tuple[str, tuple[torch.Tensor]]]:
    """ComfyUI's name of every changed weight -> its change."""
    patches = {}
    for name in erasure.targets() or []:
        path = name.removesuffix(".weight")
        change = erasure.fold(name, torch.zeros_like(module_of(unet, path).weight, dtype=torch.float32), 1.0)
        patches[f"diffusion_model.{original(unet, path)}.weight"] = ("diff", (change,))
    return patches


def original(unet: Any, name: str) -> str:
    """A module's path in ComfyUI's UNet; raises EffaceError for modules of other networks."""
    if not name.startswith("unet."):
        raise EffaceError(
            f"the erasure edits {name}, which is not in the UNet: export it with `efface export --to lora`."
        )
    layers = set(unet.num_res_blocks)
    attends = ["CrossAttn" if any(_is_transformer(m) for m in block) else "" for block in unet.output_blocks]
    config = {"layers_per_block": next(iter(layers)) if len(layers) == 1 else list(unet.num_res_blocks)}
    config["up_block_types"] = attends[:: config["layers_per_block"] + 1] if len(layers) == 1 else []
    return original_unet(name.removeprefix("unet."), config)


def module_of(unet: Any, name: str) -> Any:
    """The module that diffusers calls `name`; raises EffaceError where this UNet has none."""
    path = original(unet, name)
    try:
        return unet.get_submodule(path)
    except AttributeError as error:
        raise EffaceError(
            f"this model has no {path} ({name}), which the erasure edits: was it made for another?"
        ) from error


def _is_transformer(module: Any) -> bool:
    return hasattr(module, "transformer_blocks")
