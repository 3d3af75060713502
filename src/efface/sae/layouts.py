"""What the layouts of autoencoder files share, and the two of other tools: SAELens's (read and written), SDXL-unbox's (read)."""

from __future__ import annotations

import json
import zipfile
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from efface.errors import EffaceError
from efface.io.atomic import write_atomically
from efface.io.tensor_file import HEADER_LIMIT, open_tensors, read_json, serialize
from efface.sae.autoencoder import SAEConfig, SparseAutoencoder

SAELENS_RULES = {"topk": "topk", "jumprelu": "threshold"}
"""Architecture in SAELens's cfg.json -> rule."""


def write(folder: Path, name: str, tensors: dict[str, Tensor], data: dict[str, Any]) -> None:
    """Write cfg.json and the weights, whose checksum covers both files."""
    text = json.dumps(data, indent=1).encode()
    write_atomically(folder / "cfg.json", text)
    write_atomically(folder / name, serialize(tensors, {"format": "pt"}, beside=text))


def save_saelens(sae: SparseAutoencoder, folder: Path, site: str, model: str) -> None:
    """Write SAELens's layout: `cfg.json` and `sae_weights.safetensors` (W_enc is (width latents) there)."""
    sae = sae.at_inference()
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        "W_enc": sae.encoder.weight.T,
        "b_enc": sae.encoder.bias,
        "W_dec": sae.W_dec,
        "b_dec": sae.b_dec,
    }
    data: dict[str, Any] = {
        "architecture": "topk",
        "d_in": sae.config.width,
        "d_sae": sae.config.latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"model_name": model, "hook_name": site},
    }
    if sae.config.rule == "threshold":
        data["architecture"] = "jumprelu"
        weights["threshold"] = sae.threshold.expand(sae.config.latents)
    else:
        data |= {"k": sae.config.k, "rescale_acts_by_decoder_norm": False}
    write(folder, "sae_weights.safetensors", {k: v.float() for k, v in weights.items()}, data)


class SAEContents(NamedTuple):
    """What the files of an autoencoder hold."""

    config: SAEConfig
    threshold: float
    tensors: dict[str, Tensor]
    """Parameter name of `SparseAutoencoder` -> tensor."""


def read_saelens(folder: Path) -> SAEContents:
    data = config_of(folder / "cfg.json")
    stored = tensors_of(folder, "sae_weights.safetensors")
    rule = SAELENS_RULES.get(str(data.get("architecture")))
    plain = data.get("normalize_activations", "none") == "none" and data.get("reshape_activations", "none") == "none"
    if rule is None or not plain or not data.get("apply_b_dec_to_input", True):
        raise EffaceError(
            f"{folder} is a SAELens autoencoder of architecture {str(data.get('architecture'))[:40]!r} or with rescaled activations; "
            f"expected {' or '.join(SAELENS_RULES)} on plain activations."
        )
    names = {"W_enc", "b_enc", "W_dec", "b_dec"}
    if not names <= set(stored):
        raise EffaceError(f"{folder} lacks the tensors {sorted(names - set(stored))}: fetch another copy.")
    thresholds = stored.get("threshold", torch.zeros(1)).float().flatten()
    if rule == "threshold" and (len(thresholds) == 0 or thresholds.min() != thresholds.max()):
        raise EffaceError(f"{folder} has a threshold for every latent; expected one for all (BatchTopK's).")
    latents = stored["b_enc"].numel()
    k = min(entry(data | {"k": data.get("k", 32)}, "k", folder), max(1, latents))
    tensors = {
        "encoder.weight": _transpose(stored["W_enc"]),
        "encoder.bias": stored["b_enc"],
        "W_dec": stored["W_dec"],
        "b_dec": stored["b_dec"],
    }
    width = entry(data, "d_in", folder)
    config = SAEConfig(width=width, latents=max(1, latents), k=k, rule=rule)  # type: ignore[arg-type]
    return SAEContents(config, float(thresholds[0]), tensors)


def read_unbox(folder: Path) -> SAEContents:
    """SDXL-unbox (arXiv 2410.22366): `config.json` and a state dictionary, read without running any code in it."""
    data = config_of(folder / "config.json")
    path = folder / "state_dict.pth"
    try:
        with zipfile.ZipFile(path) as archive:  # a compressed one could grow without end
            inflated = sum(entry.file_size for entry in archive.infolist())
        if inflated > path.stat().st_size:
            raise ValueError(f"it holds {inflated} bytes")
        stored = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(stored, dict) or not all(isinstance(t, Tensor) for t in stored.values()):
            raise TypeError("it is no state dictionary")
    except Exception as error:  # a damaged pickle can raise anything
        raise EffaceError(f"{path} is damaged or holds more than tensors: it was not read.") from error
    names = {"encoder.weight": "encoder.weight", "encoder.bias": "latent_bias", "b_dec": "pre_bias"}
    missing = sorted({*names.values(), "decoder.weight"} - set(stored))
    if missing:
        raise EffaceError(f"{folder} lacks the tensors {missing}: fetch another copy.")
    tensors = {ours: stored[theirs].float() for ours, theirs in names.items()}
    tensors["W_dec"] = _transpose(stored["decoder.weight"]).float()
    if tensors["encoder.weight"].ndim != 2:
        raise EffaceError(
            f"{folder} has encoder.weight of shape {tuple(tensors['encoder.weight'].shape)}: fetch another copy."
        )
    latents, width = tensors["encoder.weight"].shape
    config = SAEConfig(width=width, latents=latents, k=entry(data, "k", folder))
    return SAEContents(config, threshold=0.0, tensors=tensors)


def _transpose(tensor: Tensor) -> Tensor:
    return tensor.T if tensor.ndim == 2 else tensor


def threshold_of(value: Any, folder: Path) -> float:
    if type(value) not in (int, float) or not isfinite(value):
        raise EffaceError(f"{folder}: threshold is {str(value)[:40]!r} in its configuration; expected a finite number.")
    return float(value)


def config_of(path: Path) -> dict[str, Any]:
    return _object(path, _text(path))


def _text(path: Path) -> bytes:
    """Bytes of a configuration file; raises EffaceError where it is missing or larger than any configuration."""
    try:
        if not path.is_file() or path.stat().st_size > HEADER_LIMIT:
            raise OSError
        return path.read_bytes()
    except OSError as error:
        raise EffaceError(
            f"{path} could not be read; expected an autoencoder's folder with cfg.json and sae.safetensors."
        ) from error


def _object(path: Path, text: bytes) -> dict[str, Any]:
    try:
        data = read_json(text)
    except ValueError as error:
        raise EffaceError(f"{path} is damaged (not JSON): fetch another copy.") from error
    if not isinstance(data, dict):
        raise EffaceError(f"{path} holds {type(data).__name__} where an object was expected: fetch another copy.")
    return data


def entry(data: dict[str, Any], name: str, folder: Path) -> int:
    value = data.get(name)
    if type(value) is not int or not 0 < value < 1 << 31:
        raise EffaceError(
            f"{folder}: {name} is {str(value)[:40]} in its configuration; expected a whole number above 0."
        )
    return value


def tensors_of(folder: Path, name: str) -> dict[str, Tensor]:
    """The weights; their checksum, where they have one, covers cfg.json too.

    Files of other tools have none and no metadata of note; one that has lost its checksum is refused.
    """
    path = folder / name
    if not path.exists():
        raise EffaceError(f"{path} is missing or damaged: fetch another copy or train it again.")
    file = open_tensors(path, "an autoencoder's weights", beside=_text(folder / "cfg.json"))
    if not file.has_checksum and set(file.metadata) - {"format"}:
        raise EffaceError(
            f"{path} was altered or damaged: it has lost its checksum; fetch another copy or train it again."
        )
    return file.tensors
