"""A pipeline for the loaders of adapters where no weights were read but those that are edited."""

from __future__ import annotations

from typing import Any

import torch


def stand_in(pipeline: Any) -> Any:
    """The pipeline itself, or, where only its text was loaded, one of the same class whose UNet has no weights.

    Args:
        pipeline: of diffusers, or one that `load` made with `text_only`.
    """
    import diffusers

    if isinstance(pipeline, diffusers.DiffusionPipeline):
        return pipeline
    kind: Any = getattr(diffusers, pipeline.config["_class_name"])
    with torch.device("meta"):
        unet: Any = diffusers.UNet2DConditionModel.from_config(dict(pipeline.unet.config))
    expected, optional = kind._get_signature_keys(kind)
    settings = {"requires_safety_checker": False} if "requires_safety_checker" in optional else {}
    return kind(**dict.fromkeys(expected) | pipeline.components | {"unet": unet}, **settings)
