"""Files of an autoencoder: a folder a site with `cfg.json` and `sae.safetensors`, as SAeUron publishes them.

Other layouts: SAELens's (read and written) and SDXL-unbox's (read).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, get_args

import torch

from efface.errors import EffaceError
from efface.sae.autoencoder import Rule, SAEConfig, SparseAutoencoder
from efface.sae.layouts import SAEContents, config_of, entry, read_saelens, read_unbox, tensors_of, threshold_of, write


def save_sae(sae: SparseAutoencoder, folder: Path, **notes: Any) -> None:
    """Write `cfg.json` and `sae.safetensors`, each to a temporary name first.

    Args:
        sae: the autoencoder; written in its own dtype.
        folder: created if missing.
        **notes: further entries of cfg.json, such as the site; readers of the published layout ignore them.
    """
    config = sae.config
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v for k, v in sae.state_dict().items() if k != "threshold"}
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
        "threshold": float(sae.threshold),
    }
    write(folder, "sae.safetensors", tensors, data | notes)


def load_sae(folder: Path | str) -> SparseAutoencoder:
    """Read an autoencoder in any of the three layouts, told apart by their files.

    Raises:
        EffaceError: files are missing or damaged, or tensors do not have the shapes that the configuration says.
    """
    folder = Path(folder)
    if (folder / "sae_weights.safetensors").exists():
        contents = read_saelens(folder)
    elif (folder / "state_dict.pth").exists():
        contents = read_unbox(folder)
    else:
        contents = _read_published(folder)
    return _assemble(folder, contents)


def sae_hash(sae: SparseAutoencoder) -> str:
    """sha256 over the autoencoder's shape, rule and weights in float32, by which erasure files name it."""
    digest = hashlib.sha256(_hash_header(sae).encode())
    for name, tensor in sorted(sae.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _hash_header(sae: SparseAutoencoder) -> str:
    """Shape, rule and threshold as the hash reads them; erasure files name autoencoders by it, so it never changes."""
    config = sae.config
    shape = f"width={config.width}, latents={config.latents}, k={config.k}, rule={config.rule!r}"
    return f"(CoderConfig({shape}), {round(float(sae.threshold), 6)!r})"


def notes_of(folder: Path | str) -> dict[str, Any]:
    """All entries of an autoencoder's `cfg.json`."""
    return config_of(Path(folder) / "cfg.json")


def _read_published(folder: Path) -> SAEContents:
    data = config_of(folder / "cfg.json")
    width = entry(data, "d_in", folder)
    latents = data.get("num_latents") or width * entry(data, "expansion_factor", folder)
    # The public code trains with BatchTopK and takes the k largest of each vector at inference.
    rule = data.get("rule", "topk")
    if data.get("input_unit_norm"):
        raise EffaceError(f"{folder} scales its inputs to unit norm, which efface does not do: use another checkpoint.")
    if rule not in get_args(Rule) or type(latents) is not int:
        raise EffaceError(f"{folder}: rule is {str(rule)[:40]!r}; expected one of {', '.join(get_args(Rule))}.")
    config = SAEConfig(width=width, latents=latents, k=entry(data, "k", folder), rule=rule)
    threshold = threshold_of(data.get("threshold", 0.0), folder)
    return SAEContents(config, threshold, tensors_of(folder, "sae.safetensors"))


def _assemble(folder: Path, contents: SAEContents) -> SparseAutoencoder:
    # Compared before anything of that size is made: a configuration may ask for more memory than there is.
    width = contents.config.width
    latents = contents.config.latents
    expected = {
        "encoder.weight": (latents, width),
        "encoder.bias": (latents,),
        "W_dec": (latents, width),
        "b_dec": (width,),
    }
    shapes = {name: tuple(t.shape) for name, t in contents.tensors.items()}
    if shapes != expected:
        wrong = sorted(set(expected.items()) ^ set(shapes.items()))[0][0]
        raise EffaceError(
            f"{folder} has {wrong} of shape {shapes.get(wrong)}; its configuration says {expected.get(wrong)}: "
            "fetch another copy."
        )
    for name, tensor in contents.tensors.items():
        if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
            raise EffaceError(f"{folder} holds values that are not finite numbers (in {name}): train it again.")
    sae = SparseAutoencoder(contents.config)
    sae.load_state_dict(
        {k: v.float() for k, v in contents.tensors.items()} | {"threshold": torch.tensor(contents.threshold)}
    )
    return sae
