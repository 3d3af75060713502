"""What closed forms read of a model: text encoders in float32, and the matrices that read text, which stay in their files.

Nothing of diffusers is imported for a folder: its libraries take longer to import than an erasure takes to compute.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from efface.errors import EffaceError
from efface.families.layers import leave_in_file
from efface.io.stored import Stored, stored_in
from efface.models.clip_text import ACTIVATIONS, ClipText
from efface.models.clip_tokens import ClipTokens
from efface.models.skeleton import Config, Skeleton
from efface.models.spelling import WRAPPER

DENOISER = ["diffusers", "UNet2DConditionModel"]
"""Library and class of the denoisers that are left in their files."""
ENCODERS = {"CLIPTextModel": False, "CLIPTextModelWithProjection": True}
"""Classes of text encoders -> whether they end in a projection."""
CLIP_TEXT = {"vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "projection_dim": 512, "num_hidden_layers": 12,
             "num_attention_heads": 8, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
             "bos_token_id": 49406, "eos_token_id": 49407}  # fmt: skip
"""What transformers' CLIPTextConfig takes for entries that a file leaves out."""
UNUSED = ("vae", "scheduler", "safety_checker", "feature_extractor", "image_encoder")
"""Components that only drawing needs."""


class TextPipeline:
    """As much of a pipeline of Stable Diffusion as is needed to erase from it by a closed form; it cannot draw.

    Args:
        kind: name of the pipeline's class.
        name: what it was loaded from.
        components: tokenizers, text encoders, and a UNet without its weights.
        vae_scale_factor: pixels of a side for each cell of the latents; None where nothing says it.
    """

    vae = None

    def __init__(self, kind: str, name: str, components: Mapping[str, Any], vae_scale_factor: int | None):
        self.kind = kind
        self.vae_scale_factor = vae_scale_factor
        self.config = Config(_class_name=kind, _name_or_path=name)
        self.components = dict(components)

    def __getattr__(self, name: str) -> Any:
        components = self.__dict__.get("components", {})
        if name not in components:
            raise AttributeError(f"only the text of this {self.__dict__.get('kind')} was loaded, which has no {name}")
        return components[name]

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Refused: raises EffaceError."""
        raise EffaceError(f"only the text of this {self.kind} was loaded, which cannot draw: load the model whole.")

    @property
    def device(self) -> torch.device:
        """Where text is encoded."""
        return next(c.device for c in self.components.values() if isinstance(c, ClipText))


def from_folder(folder: Path, device: str, variant: str | None = None) -> TextPipeline | None:
    """The text and the matrices that read it of the pipeline in a diffusers folder.

    Args:
        folder: of a whole pipeline.
        device: where text is encoded.
        variant: of the weights, as in `diffusion_pytorch_model.fp16.safetensors`; by default the files without one, or
            those of the only one.

    Returns:
        None where the pipeline is not one of a UNet and CLIP text encoders, complete and in safetensors files: it must be
        loaded whole, which also says what is wrong with it.
    """
    try:
        index = _json(folder / "model_index.json")
        named = {name: kind for name, kind in index.items() if isinstance(kind, list) and kind[1] is not None}
        encoders = {name: kind[1] for name, kind in named.items() if name.startswith("text_encoder")}
        tokenizers = {name: kind for name, kind in named.items() if name.startswith("tokenizer")}
        others = set(named) - set(encoders) - set(tokenizers) - set(UNUSED)
        known = len(encoders) == len(tokenizers) > 0 and others == {"unet"} and named["unet"] == DENOISER
        if not known or not all(kind in ENCODERS for kind in encoders.values()):
            return None
        parts: dict[str, Any] = {"unet": _unet(folder / "unet", variant)}
        parts |= {name: _tokenizer(folder / name, *kind) for name, kind in tokenizers.items()}
        parts |= {name: _encoder(folder / name, kind, variant).to(device) for name, kind in encoders.items()}
        scale = _vae_scale(folder / "vae" / "config.json")
    except (EffaceError, OSError, ValueError, RuntimeError, LookupError):
        return None
    return TextPipeline(str(index["_class_name"]), str(folder), parts, scale)


def unet_of_checkpoint(path: Path, config: str | Path) -> Any:
    """A UNet of diffusers on the meta device whose weights lie in a single file, to hand to `from_single_file`.

    Args:
        path: the file, with the names of the original Stable Diffusion.
        config: diffusers folder or hub id that says how the UNet is built.

    Returns:
        None where the file does not hold what the configuration asks for.
    """
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    try:
        sizes: Any = UNet2DConditionModel.load_config(
            str(config), subfolder="unet", local_files_only=Path(config).is_dir()
        )
        with torch.device("meta"):
            unet: Any = UNet2DConditionModel.from_config(sizes)
        # The conversion changes names alone, so that it does for tensors in a file what it does for tensors.
        missing = leave_in_file(unet, convert_ldm_unet_checkpoint(stored_in(path), sizes))
    except (EffaceError, OSError, ValueError, RuntimeError, LookupError):
        return None
    return None if missing else unet.requires_grad_(False).eval()


def move_text_encoders(pipeline: Any, device: str) -> Any:
    """A pipeline of diffusers whose networks are on a device, all but those without weights in memory."""
    for component in pipeline.components.values():
        if isinstance(component, nn.Module) and not any(p.is_meta for p in component.parameters()):
            component.to(device)
    return pipeline


def _vae_scale(config: Path) -> int | None:
    """Pixels of a side for each cell of the latents of an autoencoder."""
    return 2 ** (len(_json(config)["block_out_channels"]) - 1) if config.exists() else None


def _unet(folder: Path, variant: str | None) -> Skeleton:
    """The UNet of a folder, without its weights."""
    config, tensors = _json(folder / "config.json"), _tensors(folder, "diffusion_pytorch_model", variant)
    if "cross_attention_dim" not in config or not any(name.endswith("attn2.to_k.weight") for name in tensors):
        raise ValueError(f"{folder} holds no UNet that reads text")
    return Skeleton(DENOISER[1], config, tensors)


def _tokenizer(folder: Path, library: str, kind: str) -> Any:
    """The tokenizer of a folder."""
    if library != "transformers":
        raise ValueError(f"{kind} is no tokenizer of transformers")
    if kind == "CLIPTokenizer":
        with suppress(OSError, ValueError, LookupError, TypeError):
            return ClipTokens(folder)
    import transformers

    return getattr(transformers, kind).from_pretrained(folder)


def _encoder(folder: Path, kind: str, variant: str | None) -> ClipText:
    """The CLIP text encoder of a folder, in float32."""
    config = Config(CLIP_TEXT | _json(folder / "config.json"))
    if config.hidden_act not in ACTIVATIONS or getattr(config, "use_attention_mask", False):
        raise ValueError(f"{folder} holds a text encoder of another kind")
    with torch.device("meta"):
        encoder = ClipText(config, projected=ENCODERS[kind])
    # Versions of transformers write names with and without the wrapper.
    tensors = {name.removeprefix(WRAPPER): stored for name, stored in _tensors(folder, "model", variant).items()}
    state = {name: tensors[name].read(torch.float32) for name, _ in encoder.named_parameters()}
    encoder.load_state_dict(state, assign=True)
    return encoder.requires_grad_(False).eval()


def _tensors(folder: Path, stem: str, variant: str | None) -> dict[str, Stored]:
    """The tensors of a component's safetensors files, one or several with an index.

    Raises:
        ValueError: there are none, or only files of several variants.
    """
    files: dict[str | None, list[Path]] = {}
    for path in sorted(folder.glob(f"{stem}*.safetensors")):
        if match := _WEIGHTS.fullmatch(path.name.removeprefix(stem)):
            files.setdefault(match["variant"], []).append(path)
    chosen = variant if variant in files else None
    if chosen not in files and len(files) == 1:
        (chosen,) = files
    if chosen not in files:
        raise ValueError(f"{folder} holds no safetensors files, or those of several variants")
    whole = [path for path in files[chosen] if not _SHARD.search(path.name)]
    if whole:
        return stored_in(whole[0])
    for index in sorted(folder.glob(f"{stem}*.index*.json")):
        shards = {folder / file for file in _json(index)["weight_map"].values()}
        if shards <= set(files[chosen]):
            return stored_in(*sorted(shards))
    raise ValueError(f"{folder} holds parts of weights without their index")


_SHARD = re.compile(r"-\d+-of-\d+")
_WEIGHTS = re.compile(r"(-\d+-of-\d+)?(\.(?P<variant>[^.]+?))?(-\d+-of-\d+)?\.safetensors")
"""What follows the stem of a file of weights: which part of how many, and the variant, in either order."""


def _json(path: Path) -> dict[str, Any]:
    """An object in a file; ValueError or OSError for anything else."""
    data = json.loads(path.read_text())
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds no object")
    return data
