"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, a UNet with cross-attention."""

from __future__ import annotations

from typing import Any

from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from efface.errors import EffaceError
from efface.families.base import Entry, Family, Projection, inner_linear, unwrap


class StableDiffusion(Family):
    """StableDiffusionPipeline and its relatives (img2img, inpaint, ControlNet, the emoji canvas)."""

    name = "stable-diffusion"

    @classmethod
    def serves(cls, pipeline: Any) -> bool:
        unet = unwrap(getattr(pipeline, "unet", None))
        needed = (getattr(pipeline, "tokenizer", None), getattr(pipeline, "text_encoder", None))
        return (
            isinstance(unet, UNet2DConditionModel) and None not in needed and bool(unet.config["cross_attention_dim"])
        )

    def tokenizers(self) -> list[Any]:
        return [self.pipeline.tokenizer]

    def text_encoders(self) -> dict[str, nn.Module]:
        return {"text_encoder": unwrap(self.pipeline.text_encoder)}

    def encode(self, ids: list[Tensor], masks: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        encoder, device = self.pipeline.text_encoder, execution_device(self.pipeline)
        # Like the pipeline, pass the mask only to encoders whose config asks for it.
        uses_mask = getattr(unwrap(encoder).config, "use_attention_mask", False)
        return encoder(ids[0].to(device), attention_mask=masks[0].to(device) if uses_mask else None)[0], None

    def entries(self) -> list[Entry]:
        entries = [Entry("unet", unwrap(self.pipeline.unet))]
        controls = unwrap(getattr(self.pipeline, "controlnet", None))
        if controls is not None:
            nets = list(getattr(controls, "nets", [controls]))
            entries += [
                Entry("controlnet" if len(nets) == 1 else f"controlnet.nets.{i}", unwrap(n)) for i, n in enumerate(nets)
            ]
        return entries

    def projections(self) -> list[Projection]:
        found = []
        for entry in self.entries():
            reprojection = getattr(entry.module.config, "encoder_hid_dim_type", None)
            if reprojection not in (None, "ip_image_proj"):
                raise EffaceError(
                    f"{entry.name} reprojects its text states ({reprojection}): "
                    "text maps need states that reach the key and value matrices unchanged; use a weight-level method."
                )
            for name, block in entry.module.named_modules():
                if not (name.endswith("attn2") and hasattr(block, "to_k")):
                    continue
                # Unfusing puts the processors back but leaves the block's own flag set.
                if type(block.processor).__name__.startswith("Fused"):
                    raise EffaceError(
                        f"the projections of {entry.name}.{name} are fused; expected separate keys and values: "
                        "call unfuse_qkv_projections() on the pipeline first."
                    )
                for part in ("to_k", "to_v"):
                    path = f"{entry.name}.{name}.{part}"
                    layer, adapted = inner_linear(path, getattr(block, part))
                    found.append(Projection(path, getattr(block, part) if adapted else layer, adapted))
        return found

    def predict(self, latents: Tensor, level: Tensor, states: Tensor, pooled: Tensor | None) -> Tensor:
        return self.pipeline.unet(latents, level, encoder_hidden_states=states, return_dict=False)[0]

    def uncovered(self) -> list[str]:
        names = []
        if getattr(unwrap(self.pipeline.unet).config, "encoder_hid_dim_type", None) == "ip_image_proj":
            names.append("IP-Adapter's image states")
        return names


def execution_device(pipeline: Any) -> Any:
    """Where the pipeline computes, also while its weights are offloaded."""
    return getattr(pipeline, "_execution_device", pipeline.device)
