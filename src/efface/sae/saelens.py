"""SAELens's layout of an autoencoder, read and written: `cfg.json` and `sae_weights.safetensors`, W_enc as (width latents).

Versions 6 and later say everything in `architecture`; earlier ones have an activation function beside it, and a factor
for every latent after finetuning.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from efface.errors import EffaceError
from efface.sae.autoencoder import Rule, SAEConfig, SparseAutoencoder
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
    transposed,
    write,
)

WEIGHTS = "sae_weights.safetensors"
NAMES = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}
"""Parameter of `SparseAutoencoder` -> its name in the file."""
LEAST_NORM = 1e-8
"""Norm of a decoder row that SAELens takes for the least."""
READ: dict[str, Any] = {
    "architecture": ("topk", "jumprelu", "standard"),
    "d_in": ANY,
    "d_sae": ANY,
    "k": ANY,
    "apply_b_dec_to_input": (True, False),
    "normalize_activations": ("none", None, False),
    "reshape_activations": ("none", None),
    "rescale_acts_by_decoder_norm": (True, False),
    "activation_fn": ("relu", "topk"),
    "activation_fn_str": ("relu", "topk"),
    "activation_fn_kwargs": ANY,
    "finetuning_scaling_factor": (True, False, None),
    "hook_head_index": (None,),
    "hook_point_head_index": (None,),
}
"""Entries that decide what is computed."""
HARMLESS = (
    # Where and on what it was trained, and how its weights are held.
    "dtype", "device", "metadata", "model_name", "model_class_name", "hook_name", "hook_layer", "hook_point", "hook_point_layer",
    "hook_eval", "context_size", "prepend_bos", "seqpos_slice", "exclude_special_tokens", "neuronpedia_id", "release", "sae_id",
    "dataset_path", "dataset_trust_remote_code", "streaming", "is_dataset_tokenized", "use_chat_formatting",
    "model_kwargs", "model_from_pretrained_kwargs", "sae_lens_version", "sae_lens_training_version",
    # How it was trained.
    "seed", "train_batch_size", "train_batch_size_tokens", "store_batch_size", "store_batch_size_prompts",
    "n_batches_in_buffer", "training_tokens", "total_training_tokens", "total_training_steps", "tokens_per_buffer",
    "n_batches_for_norm_estimate", "activations_mixing_fraction", "disable_concat_sequences", "sequence_separator_token",
    "use_cached_activations", "cached_activations_path", "from_pretrained_path", "resume_from_checkpoint", "output_path",
    "expansion_factor", "b_dec_init_method", "decoder_init_norm", "decoder_heuristic_init", "decoder_orthogonal_init",
    "init_encoder_as_decoder_transpose", "normalize_sae_decoder", "noise_scale", "mse_loss_normalization", "l1_coefficient",
    "l1_warm_up_steps", "l0_coefficient", "l0_warm_up_steps", "lp_norm", "scale_sparsity_penalty_by_decoder_norm",
    "aux_loss_coefficient", "topk_threshold_lr", "use_sparse_activations", "jumprelu_init_threshold", "jumprelu_bandwidth",
    "jumprelu_sparsity_loss_mode", "jumprelu_tanh_scale", "jumprelu_ste_to_input", "pre_act_loss_coefficient", "target_l0",
    "use_ghost_grads", "feature_sampling_window", "dead_feature_window", "dead_feature_threshold", "lr", "lr_end",
    "lr_scheduler_name", "lr_warm_up_steps", "lr_decay_steps", "n_restart_cycles", "adam_beta1", "adam_beta2",
    "n_eval_batches", "eval_batch_size_prompts", "eval_every_n_wandb_logs", "n_checkpoints", "checkpoint_path",
    "save_final_checkpoint", "verbose", "logger", "log_to_wandb", "log_activations_store_to_wandb",
    "log_optimizer_state_to_wandb", "log_weights_to_wandb", "wandb_project", "wandb_id", "wandb_entity",
    "wandb_log_frequency", "run_name", "autocast", "autocast_lm", "compile_llm", "llm_compilation_mode", "compile_sae",
    "sae_compilation_mode", "act_store_device", "llm_device", "prefetch_llm_batches",
)  # fmt: skip


class _Function(NamedTuple):
    """What a configuration says of the computation."""

    rule: Rule
    k: int
    subtracts: bool
    """Whether the decoder's bias is subtracted from the input."""
    rescales: bool
    """Whether activations are measured in units of their decoder rows' lengths."""
    factors: bool
    """Whether there is a factor for every latent."""


def save_saelens(sae: SparseAutoencoder, folder: Path, site: str, model: str) -> None:
    """Write SAELens's layout; raises EffaceError for an autoencoder that it cannot describe."""
    if sae.config.reads != "output":
        raise EffaceError(
            f"the autoencoder of {site} reads the difference output − input, which SAELens's layout cannot say: save it as it is."
        )
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
    write(folder, WEIGHTS, {k: v.float() for k, v in weights.items()}, data)


def read_saelens(folder: Path) -> SAEContents:
    """The autoencoder in a folder of SAELens's, as efface's own function of the input.

    Norms and factors go into the weights: with rows w and v of encoder and decoder, n = |v| and the factor f, a latent
    becomes w n, v f / n; without a subtracted bias c, the encoder's own grows by W c.

    Raises:
        EffaceError: it computes what efface's autoencoder does not, or its files are damaged.
    """
    data = config_of(folder / "cfg.json")
    known = READ | dict.fromkeys(HARMLESS, ANY)
    require_known(data, known, folder, "SAELens")
    require_no_scaling(folder)
    function = _function(data, folder)
    stored = tensors_of(folder, WEIGHTS)
    beside = {"threshold"} if data.get("architecture") == "jumprelu" else set()
    beside |= {"finetuning_scaling_factor"} if function.factors else set()
    if "scaling_factor" in stored and bool((stored["scaling_factor"] == 1).all()):
        del stored["scaling_factor"]  # version 3 wrote one whether it was used or not
    require_tensors(stored, {*NAMES.values(), *beside}, (), folder)
    thresholds = stored.get("threshold", torch.zeros(1)).float().flatten()
    if len(thresholds) == 0 or thresholds.min() != thresholds.max():
        raise EffaceError(f"{folder} has a threshold for every latent; expected one for all (BatchTopK's).")
    tensors = {ours: stored[theirs] for ours, theirs in NAMES.items()}
    tensors["encoder.weight"] = transposed(tensors["encoder.weight"])
    latents = entry(data, "d_sae", folder) if "d_sae" in data else max(1, stored["b_enc"].numel())
    config = SAEConfig(entry(data, "d_in", folder), latents, min(function.k, latents), function.rule)
    contents = SAEContents(config, float(thresholds[0]), tensors)
    require_shapes(folder, contents)
    factors = stored.get("finetuning_scaling_factor", torch.ones(latents))
    if factors.shape != (latents,) or not torch.isfinite(factors).all():
        raise EffaceError(f"{folder} has no finite finetuning_scaling_factor for each of its {latents} latents.")
    return contents._replace(tensors=_folded(tensors, function, factors))


def _function(data: dict[str, Any], folder: Path) -> _Function:
    """What a configuration of any version says; raises EffaceError where its entries do not fit together."""
    architecture = data.get("architecture", "standard")
    activation = data.get("activation_fn", data.get("activation_fn_str", "relu"))
    options = data.get("activation_fn_kwargs") or {}
    require_known(options, {"k": ANY}, folder, "SAELens's activation_fn_kwargs")
    topk = architecture == "topk" or (architecture == "standard" and activation == "topk")
    if activation == "topk" and not topk:
        raise EffaceError(f"{folder}: activation_fn is 'topk' with architecture {architecture!r}; expected 'topk'.")
    reshaped = data.get("reshape_activations") is None and "hook_z" in str(data.get("hook_name", ""))
    if reshaped:  # earlier versions decide by the hook's name
        raise EffaceError(
            f"{folder} reads the heads of an attention side by side (hook_z); expected a module's output."
        )
    rescales = bool(data.get("rescale_acts_by_decoder_norm"))
    if rescales and not topk:
        raise EffaceError(
            f"{folder}: rescale_acts_by_decoder_norm is True with architecture {architecture!r}, for which SAELens ignores "
            "it: take the entry out."
        )
    return _Function(
        rule="topk" if topk else "threshold",
        k=entry(options if "k" in options else data, "k", folder) if topk else 32,
        subtracts=bool(data.get("apply_b_dec_to_input", True)),
        rescales=rescales,
        factors=bool(data.get("finetuning_scaling_factor")),
    )


def _folded(tensors: dict[str, Tensor], function: _Function, factors: Tensor) -> dict[str, Tensor]:
    """The weights with norms, factors and a bias that is not subtracted in them."""
    encoder, bias, decoder, centre = (tensors[name].double() for name in NAMES)
    if function.rescales:
        lengths = decoder.norm(dim=1).clamp(min=LEAST_NORM)
        encoder = encoder * lengths[:, None]
        bias = bias * lengths
        decoder = decoder / lengths[:, None]
    if not function.subtracts:
        bias = bias + encoder @ centre
    decoder = decoder * factors.double()[:, None]
    return dict(zip(NAMES, (encoder, bias, decoder, centre), strict=True))
