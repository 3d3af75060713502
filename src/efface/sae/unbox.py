"""SDXL-unbox's layout of an autoencoder (arXiv 2410.22366), read: `config.json` and a pickled state dictionary.

Its autoencoders read and write what a block adds, output − input.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from efface.errors import EffaceError
from efface.sae.autoencoder import Reads, SAEConfig
from efface.sae.layouts import (
    ANY,
    SAEContents,
    config_of,
    entry,
    require_known,
    require_no_scaling,
    require_tensors,
    transposed,
)

WEIGHTS = "state_dict.pth"
NAMES = {
    "encoder.weight": "encoder.weight",
    "encoder.bias": "latent_bias",
    "W_dec": "decoder.weight",
    "b_dec": "pre_bias",
}
"""Parameter of `SparseAutoencoder` -> its name in the file."""
KNOWN: dict[str, Any] = {
    "n_dirs_local": ANY, "d_model": ANY, "k": ANY, "auxk": ANY, "dead_steps_threshold": ANY,
    "output_or_diff": ("diff", "output"),
}  # fmt: skip
"""`output_or_diff` is an option of training, which checkpoints do not hold; who trained on outputs may write it there."""
COUNTS = ("stats_last_nonzero",)
"""Tensors that training keeps for itself."""
ACTIVITY = ("mean.pt", "std.pt")
"""Files with each latent's mean activation and its spread, which the tool's demonstration uses."""


def read_unbox(folder: Path) -> SAEContents:
    """The autoencoder in a folder of SDXL-unbox's; no code in it is run.

    Raises:
        EffaceError: an entry or a tensor is unknown, or the files are damaged.
    """
    data = config_of(folder / "config.json")
    require_known(data, KNOWN, folder, "SDXL-unbox")
    require_no_scaling(folder, ACTIVITY)
    stored = _state_of(folder / WEIGHTS)
    require_tensors(stored, NAMES.values(), COUNTS, folder)
    tensors = {ours: stored[theirs].float() for ours, theirs in NAMES.items()}
    tensors["W_dec"] = transposed(tensors["W_dec"])
    if tensors["encoder.weight"].ndim != 2:
        raise EffaceError(
            f"{folder} has encoder.weight of shape {tuple(tensors['encoder.weight'].shape)}: fetch another copy."
        )
    latents, width = tensors["encoder.weight"].shape
    for name in ACTIVITY:
        if (folder / name).exists() and _state_of(folder / name)[""].shape != (latents,):
            raise EffaceError(
                f"{folder / name} has no number for each of the {latents} latents, so it is no record of their activity: "
                "move it away if the inputs need no centring or scaling."
            )
    reads: Reads = "output" if data.get("output_or_diff") == "output" else "difference"
    config = SAEConfig(width, latents, entry(data, "k", folder), reads=reads)
    return SAEContents(config, threshold=0.0, tensors=tensors)


def _state_of(path: Path) -> dict[str, Tensor]:
    """Tensors of a pickle by name, a single one by the empty name; raises EffaceError where it holds more than tensors."""
    try:
        with zipfile.ZipFile(path) as archive:  # a compressed one could grow without end
            inflated = sum(entry.file_size for entry in archive.infolist())
        if inflated > path.stat().st_size:
            raise ValueError(f"it holds {inflated} bytes")
        stored = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(stored, Tensor):
            stored = {"": stored}
        if set(stored) == {"state_dict"}:
            stored = stored["state_dict"]
        if not isinstance(stored, dict) or not all(isinstance(t, Tensor) for t in stored.values()):
            raise TypeError("it is no state dictionary")
    except Exception as error:  # a damaged pickle can raise anything
        raise EffaceError(f"{path} is damaged or holds more than tensors: it was not read.") from error
    return dict(stored)
