"""Files of an autoencoder: a folder a site with `cfg.json` and `sae.safetensors`, as SAeUron publishes them.

Other layouts: SAELens's (read and written) and SDXL-unbox's (read).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from efface.erasures.file import write_atomically
from efface.errors import EffaceError
from efface.sae.coder import Coder, CoderConfig

SAELENS_RULES = {"topk": "topk", "jumprelu": "threshold"}
"""Architecture in SAELens's cfg.json -> rule."""


def save_coder(coder: Coder, folder: Path, **notes: Any) -> None:
    """Write `cfg.json` and `sae.safetensors`, each to a temporary name first.

    Args:
        coder: the autoencoder; written in its own dtype.
        folder: made if missing.
        **notes: more entries of cfg.json, such as the site; readers of the published layout pass over them.
    """
    config = coder.config
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().cpu().contiguous() for k, v in coder.state_dict().items() if k != "threshold"}
    write_atomically(folder / "sae.safetensors", save(tensors))
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
    write_atomically(folder / "cfg.json", json.dumps(data | notes, indent=1).encode())


def load_coder(folder: Path | str) -> Coder:
    """Read an autoencoder in any of the three layouts, told apart by their files.

    Raises:
        EffaceError: files are missing or damaged, or tensors do not have the shapes that the configuration says.
    """
    folder = Path(folder)
    if (folder / "sae_weights.safetensors").exists():
        config, threshold, tensors = _saelens(folder)
    elif (folder / "state_dict.pth").exists():
        config, threshold, tensors = _unbox(folder)
    else:
        config, threshold, tensors = _published(folder)
    return _assembled(folder, config, threshold, tensors)


def coder_hash(coder: Coder) -> str:
    """sha256 over the autoencoder's shape, rule and weights in float32: how an erasure names it."""
    digest = hashlib.sha256(repr((coder.config, round(float(coder.threshold), 6))).encode())
    for name, tensor in sorted(coder.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def notes_of(folder: Path | str) -> dict[str, Any]:
    """Everything in an autoencoder's `cfg.json`."""
    return _json(Path(folder) / "cfg.json")


def save_saelens(coder: Coder, folder: Path, site: str, model: str) -> None:
    """Write SAELens's layout: `cfg.json` and `sae_weights.safetensors` (W_enc is (width latents) there)."""
    coder = coder.at_inference()
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        "W_enc": coder.encoder.weight.T,
        "b_enc": coder.encoder.bias,
        "W_dec": coder.W_dec,
        "b_dec": coder.b_dec,
    }
    data: dict[str, Any] = {
        "architecture": "topk",
        "d_in": coder.config.width,
        "d_sae": coder.config.latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"model_name": model, "hook_name": site},
    }
    if coder.config.rule == "threshold":
        data["architecture"] = "jumprelu"
        weights["threshold"] = coder.threshold.expand(coder.config.latents)
    else:
        data |= {"k": coder.config.k, "rescale_acts_by_decoder_norm": False}
    tensors = {k: v.detach().cpu().float().contiguous() for k, v in weights.items()}
    write_atomically(folder / "sae_weights.safetensors", save(tensors))
    write_atomically(folder / "cfg.json", json.dumps(data, indent=1).encode())


def _published(folder: Path) -> tuple[CoderConfig, Tensor, dict[str, Tensor]]:
    data = _json(folder / "cfg.json")
    width = _entry(data, "d_in", folder)
    latents = data.get("num_latents") or width * _entry(data, "expansion_factor", folder)
    # The public code trains with BatchTopK and takes the k largest of each vector at inference.
    config = CoderConfig(width, latents, _entry(data, "k", folder), data.get("rule", "topk"))
    if data.get("input_unit_norm"):
        raise EffaceError(f"{folder} scales its inputs to unit norm, which efface does not do: use another checkpoint.")
    return config, torch.tensor(float(data.get("threshold", 0.0))), _tensors(folder / "sae.safetensors")


def _saelens(folder: Path) -> tuple[CoderConfig, Tensor, dict[str, Tensor]]:
    data, given = _json(folder / "cfg.json"), _tensors(folder / "sae_weights.safetensors")
    rule = SAELENS_RULES.get(data.get("architecture", ""))
    plain = data.get("normalize_activations", "none") == "none" and data.get("reshape_activations", "none") == "none"
    if rule is None or not plain or not data.get("apply_b_dec_to_input", True):
        raise EffaceError(
            f"{folder} is a SAELens autoencoder of architecture {data.get('architecture')!r} or with rescaled activations; "
            f"expected {' or '.join(SAELENS_RULES)} on plain activations."
        )
    names = {"W_enc", "b_enc", "W_dec", "b_dec"}
    if not names <= set(given):
        raise EffaceError(f"{folder} lacks the tensors {sorted(names - set(given))}: fetch another copy.")
    thresholds = given.get("threshold", torch.zeros(1)).float()
    if rule == "threshold" and thresholds.min() != thresholds.max():
        raise EffaceError(f"{folder} has a threshold for every latent; expected one for all (BatchTopK's).")
    latents = len(given["b_enc"])
    config = CoderConfig(_entry(data, "d_in", folder), latents, min(data.get("k", 32), latents), rule)  # type: ignore[arg-type]
    tensors = {
        "encoder.weight": given["W_enc"].T, "encoder.bias": given["b_enc"], "W_dec": given["W_dec"], "b_dec": given["b_dec"],
    }  # fmt: skip
    return config, thresholds[0], tensors


def _unbox(folder: Path) -> tuple[CoderConfig, Tensor, dict[str, Tensor]]:
    """SDXL-unbox (arXiv 2410.22366): `config.json` and a state dictionary, read without running any code in it."""
    data = _json(folder / "config.json")
    try:
        given = torch.load(folder / "state_dict.pth", map_location="cpu", weights_only=True)
    except Exception as error:
        raise EffaceError(
            f"{folder / 'state_dict.pth'} is damaged or holds more than tensors: it was not read."
        ) from error
    names = {"encoder.weight": "encoder.weight", "encoder.bias": "latent_bias", "b_dec": "pre_bias"}
    missing = sorted({*names.values(), "decoder.weight"} - set(given))
    if missing:
        raise EffaceError(f"{folder} lacks the tensors {missing}: fetch another copy.")
    tensors = {ours: given[theirs].float() for ours, theirs in names.items()}
    tensors["W_dec"] = given["decoder.weight"].T.float()
    latents, width = tensors["encoder.weight"].shape
    return CoderConfig(width, latents, _entry(data, "k", folder)), torch.tensor(0.0), tensors


def _assembled(folder: Path, config: CoderConfig, threshold: Tensor, tensors: dict[str, Tensor]) -> Coder:
    coder = Coder(config)
    expected = {name: tuple(t.shape) for name, t in coder.state_dict().items() if name != "threshold"}
    found = {name: tuple(t.shape) for name, t in tensors.items()}
    if found != expected:
        wrong = sorted(set(expected.items()) ^ set(found.items()))[0][0]
        raise EffaceError(
            f"{folder} has {wrong} of shape {found.get(wrong)}; its configuration says {expected.get(wrong)}: "
            "fetch another copy."
        )
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise EffaceError(f"{folder} holds values that are not finite (in {name}): train it again.")
    coder.load_state_dict({k: v.float() for k, v in tensors.items()} | {"threshold": threshold})
    return coder


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        raise EffaceError(
            f"{path} could not be read; expected an autoencoder's folder with cfg.json and sae.safetensors."
        ) from error
    except ValueError as error:
        raise EffaceError(f"{path} is damaged (not JSON): fetch another copy.") from error
    if not isinstance(data, dict):
        raise EffaceError(f"{path} holds {type(data).__name__} where an object was expected: fetch another copy.")
    return data


def _entry(data: dict[str, Any], name: str, folder: Path) -> int:
    value = data.get(name)
    if not isinstance(value, int) or value < 1:
        raise EffaceError(f"{folder}: {name} is {value!r} in its configuration; expected a whole number above 0.")
    return value


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise EffaceError(f"{path} is missing or damaged: fetch another copy or train it again.") from error
