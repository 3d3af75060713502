"""Files of an autoencoder: a folder a site with `cfg.json` and `sae.safetensors`, as sparsify and SAeUron publish them.

Other layouts: SAELens's (read and written, `saelens`) and SDXL-unbox's (read, `unbox`). What a file says is read or refused;
nothing is passed over that could change what an autoencoder computes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, get_args

import torch

from efface.errors import EffaceError
from efface.sae import saelens, unbox
from efface.sae.autoencoder import Reads, Rule, SAEConfig, SparseAutoencoder
from efface.sae.layouts import (
    ANY,
    SAEContents,
    config_of,
    entry,
    require_known,
    require_no_scaling,
    require_shapes,
    require_tensors,
    tensors_of,
    threshold_of,
    write,
)

PUBLISHED: dict[str, Any] = {
    "d_in": ANY, "num_latents": ANY, "expansion_factor": ANY, "k": ANY, "normalize_decoder": ANY, "batch_topk": ANY,
    "sample_topk": ANY, "rule": ANY, "threshold": ANY, "reads": get_args(Reads),
    "multi_topk": (False,),  # reconstructs from 4 k latents and encodes k
    "input_unit_norm": (False,), "activation": ("topk",), "signed": (False,), "skip_connection": (False,),
    "transcode": (False,),
}  # fmt: skip
"""Entries of sparsify's `cfg.json` and SAeUron's, and those of efface's own that are no notes."""
PICKLED = "ae.pt"
"""What dictionary_learning writes."""


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
    if config.reads != "output":
        data["reads"] = config.reads
    write(folder, "sae.safetensors", tensors, data | notes)


def load_sae(folder: Path | str) -> SparseAutoencoder:
    """Read an autoencoder in any of the three layouts, told apart by their files.

    Raises:
        EffaceError: files are missing or damaged, tensors do not have the shapes that the configuration says, or it computes
            what efface's autoencoder does not; the entry or tensor that says so is named.
    """
    folder = Path(folder)
    if (folder / saelens.WEIGHTS).exists():
        contents = saelens.read_saelens(folder)
    elif (folder / unbox.WEIGHTS).exists():
        contents = unbox.read_unbox(folder)
    elif (folder / PICKLED).exists() and not (folder / "sae.safetensors").exists():
        raise EffaceError(
            f"{folder / PICKLED} is a pickle of dictionary_learning, which can run code when opened: open it there and save its "
            "tensors by the lines in docs/saeuron.md (Autoencoders of other libraries)."
        )
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
    if config.reads != "output":
        shape += f", reads={config.reads!r}"
    return f"(CoderConfig({shape}), {round(float(sae.threshold), 6)!r})"


def notes_of(folder: Path | str) -> dict[str, Any]:
    """All entries of an autoencoder's `cfg.json`."""
    return config_of(Path(folder) / "cfg.json")


def _read_published(folder: Path) -> SAEContents:
    """sparsify's layout, in which SAeUron's autoencoders and efface's own are published.

    SAeUron trains with BatchTopK and takes the k largest of each vector at inference.
    """
    data = config_of(folder / "cfg.json")
    own = "rule" in data
    require_known({k: v for k, v in data.items() if k in PUBLISHED or not own}, PUBLISHED, folder, "sparsify")
    if not own:
        require_no_scaling(folder)
    width = entry(data, "d_in", folder)
    latents = data.get("num_latents") or width * entry(data, "expansion_factor", folder)
    rule = data.get("rule", "topk")
    if rule not in get_args(Rule) or type(latents) is not int:
        raise EffaceError(f"{folder}: rule is {str(rule)[:40]!r}; expected one of {', '.join(get_args(Rule))}.")
    config = SAEConfig(width, latents, entry(data, "k", folder), rule, data.get("reads", "output"))
    threshold = threshold_of(data.get("threshold", 0.0), folder)
    stored = tensors_of(folder, "sae.safetensors")
    require_tensors(stored, ("encoder.weight", "encoder.bias", "W_dec", "b_dec"), (), folder)
    return SAEContents(config, threshold, stored)


def _assemble(folder: Path, contents: SAEContents) -> SparseAutoencoder:
    """The autoencoder of what its files hold; raises EffaceError where shapes or values are not what they should be."""
    require_shapes(folder, contents)
    sae = SparseAutoencoder(contents.config)
    sae.load_state_dict(
        {k: v.float() for k, v in contents.tensors.items()} | {"threshold": torch.tensor(contents.threshold)}
    )
    return sae
