"""Names of the tensors in single-file checkpoints of Stable Diffusion 1, 2 and XL: any other is an error that names it.

A tensor that diffusers' reader would pass over may say how the others are to be read (scales of fp8 weights, the marker
`v_pred`), or belong to a network without which the model draws something else.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from efface.errors import EffaceError

UNET = "model.diffusion_model."
"""Prefix of the UNet's tensors."""
ROOTS = ("input_blocks", "middle_block", "output_blocks", "time_embed", "label_emb", "out")
"""Parts of a UNet in the original layout."""
AUTOENCODER = "first_stage_model."
TEXT = ("cond_stage_model.", "conditioner.")
"""Prefixes of the text encoders' tensors in SD 1 and 2, and in XL."""
OWN_ROOTS = (
    "down_blocks", "mid_block", "up_blocks", "conv_in", "conv_out", "conv_norm_out", "time_embedding", "add_embedding",
)  # fmt: skip
"""Parts of a UNet in diffusers' layout."""
AVERAGED = "model_ema."
"""Prefix of a second copy of the UNet, with which no tool draws."""
SCHEDULE = (
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_variance",
    "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2", "logvar", "global_step",
    "denoiser.sigmas", "edm_mean", "edm_std",
)  # fmt: skip
"""Numbers of the training schedule, which diffusers' schedulers have of their own or read from here."""


def in_own_layout(names: Collection[str]) -> bool:
    """Whether tensors are those of a UNet in diffusers' layout."""
    return any(name.removeprefix("unet.").partition(".")[0] in OWN_ROOTS for name in names)


def require_known_names(path: Path, names: Collection[str]) -> None:
    """Raise EffaceError for the first tensor that no part of a Stable Diffusion checkpoint has.

    Raises:
        ValueError: none of them is of a UNet in the original layout.
    """
    if not any(name.startswith(UNET) for name in names):
        raise ValueError(
            "its tensors are not those of a Stable Diffusion 1.x, 2.x or XL checkpoint; other families are read from a folder"
        )
    for name in sorted(names):
        root, _, _ = name.removeprefix(UNET).partition(".")
        if name.startswith(UNET) and root not in ROOTS and "." in name.removeprefix(UNET):
            raise EffaceError(
                f"{path} holds {name}, which no UNet of Stable Diffusion has: efface reads single files of Stable Diffusion 1, 2 "
                "and XL, so give the diffusers folder or hub id of a model of another family."
            )
        known = name.startswith((UNET, AUTOENCODER, AVERAGED, *TEXT)) or name in SCHEDULE
        last = name.rpartition(".")[2]
        scaled = "scale" in last and last != "logit_scale"
        if (
            not known
            or (scaled and not name.startswith(AVERAGED))
            or (name.startswith(UNET) and last not in ("weight", "bias"))
        ):
            raise EffaceError(
                f"{path} holds {name}, which efface does not know and which may change how the model draws (a scale, a marker, "
                "another network): give the model's diffusers folder, or a checkpoint without."
            )
