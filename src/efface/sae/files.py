"""Files of an autoencoder: a folder a site with `cfg.json` and `sae.safetensors`, as SAeUron publishes them.

Other layouts: SAELens's (read and written) and SDXL-unbox's (read).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, get_args

import torch

from efface.errors import EffaceError
from efface.sae.autoencoder import Coder, CoderConfig, Rule
from efface.sae.layouts import Read, config_of, entry, read_saelens, read_unbox, tensors_of, threshold_of, write


def save_coder(coder: Coder, folder: Path, **notes: Any) -> None:
    """Write `cfg.json` and `sae.safetensors`, each to a temporary name first.

    Args:
        coder: the autoencoder; written in its own dtype.
        folder: made if missing.
        **notes: more entries of cfg.json, such as the site; readers of the published layout pass over them.
    """
    config = coder.config
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v for k, v in coder.state_dict().items() if k != "threshold"}
    data = {
        "d_in": config.width,
        "num_latents": config.latents,
        "expansion_factor": max(1, config.latents // config.width),
        "k": config.k,
        "normalize_decoder": True,
        "batch_topk": config.rule == "batchtopk",
        "sample_topk": False,
        "multi_topk": False,
        "input_unit_norm": False,
        "rule": config.rule,
        "threshold": float(coder.threshold),
    }
    write(folder, "sae.safetensors", tensors, data | notes)


def load_coder(folder: Path | str) -> Coder:
    """Read an autoencoder in any of the three layouts, told apart by their files.

    Raises:
        EffaceError: files are missing or damaged, or tensors do not have the shapes that the configuration says.
    """
    folder = Path(folder)
    if (folder / "sae_weights.safetensors").exists():
        found = read_saelens(folder)
    elif (folder / "state_dict.pth").exists():
        found = read_unbox(folder)
    else:
        found = _published(folder)
    return _assembled(folder, found)


def coder_hash(coder: Coder) -> str:
    """sha256 over the autoencoder's shape, rule and weights in float32: how an erasure names it."""
    digest = hashlib.sha256(repr((coder.config, round(float(coder.threshold), 6))).encode())
    for name, tensor in sorted(coder.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def notes_of(folder: Path | str) -> dict[str, Any]:
    """Everything in an autoencoder's `cfg.json`."""
    return config_of(Path(folder) / "cfg.json")


def _published(folder: Path) -> Read:
    data = config_of(folder / "cfg.json")
    width = entry(data, "d_in", folder)
    latents = data.get("num_latents") or width * entry(data, "expansion_factor", folder)
    # The public code trains with BatchTopK and takes the k largest of each vector at inference.
    rule = data.get("rule", "topk")
    if data.get("input_unit_norm"):
        raise EffaceError(f"{folder} scales its inputs to unit norm, which efface does not do: use another checkpoint.")
    if rule not in get_args(Rule) or type(latents) is not int:
        raise EffaceError(f"{folder}: rule is {str(rule)[:40]!r}; expected one of {', '.join(get_args(Rule))}.")
    config = CoderConfig(width, latents, entry(data, "k", folder), rule)
    return Read(config, threshold_of(data.get("threshold", 0.0), folder), tensors_of(folder, "sae.safetensors"))


def _assembled(folder: Path, found: Read) -> Coder:
    # Compared before anything of that size is made: a configuration may ask for more memory than there is.
    width, latents = found.config.width, found.config.latents
    expected = {
        "encoder.weight": (latents, width),
        "encoder.bias": (latents,),
        "W_dec": (latents, width),
        "b_dec": (width,),
    }
    shapes = {name: tuple(t.shape) for name, t in found.tensors.items()}
    if shapes != expected:
        wrong = sorted(set(expected.items()) ^ set(shapes.items()))[0][0]
        raise EffaceError(
            f"{folder} has {wrong} of shape {shapes.get(wrong)}; its configuration says {expected.get(wrong)}: "
            "fetch another copy."
        )
    for name, tensor in found.tensors.items():
        if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
            raise EffaceError(f"{folder} holds values that are not finite numbers (in {name}): train it again.")
    coder = Coder(found.config)
    coder.load_state_dict(
        {k: v.float() for k, v in found.tensors.items()} | {"threshold": torch.tensor(found.threshold)}
    )
    return coder
