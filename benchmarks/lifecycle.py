"""What it costs that erasures are looked after: attaching and removing, and the look before every call, on SD 1.5's dimensions.

    python benchmarks/lifecycle.py                   # 4 GB of memory, about five minutes on two cores
    python benchmarks/lifecycle.py --latent-side 16  # a smaller picture, for a look

Random weights in bfloat16, real shapes: UNet and text encoder of SD 1.5, a tiny autoencoder. A text map of rank 8 is attached and
removed; the first attachment takes the model's fingerprint and is given apart. The look before a call is timed with the map
attached and with it folded into all 32 matrices; its share is that of the slower one in one guided call of the UNet.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import tyro
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

import efface
from efface.erasures import Provenance, TextMap
from efface.erasures.watch import drawing
from efface.models.unchanged import known_footprint

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
import tiny  # type: ignore[import-not-found]

SD15 = {
    "sample_size": 64,
    "cross_attention_dim": 768,
    "block_out_channels": (320, 640, 1280, 1280),
    "attention_head_dim": 8,
}
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
WIDTH, RANK = 768, 8


@dataclasses.dataclass(frozen=True)
class Options:
    """How large, how often."""

    latent_side: int = 64
    """Cells of a side of the latents."""
    repeats: int = 30
    """Attachments; the fastest counts, since others use the machine."""
    calls: int = 3
    """Calls of the UNet; the fastest counts."""


def random_weights(module: Any) -> Any:
    """A network on no device yet, with random weights in bfloat16."""
    module = module.to(torch.bfloat16).to_empty(device="cpu").eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1 << 20, generator=generator).to(torch.bfloat16) * 0.02
    for tensor in module.parameters():
        tensor.flatten().copy_(noise.repeat(tensor.numel() // len(noise) + 1)[: tensor.numel()])
    for name, tensor in module.named_buffers():
        if name.endswith("position_ids"):
            tensor.copy_(torch.arange(tensor.numel()).reshape(tensor.shape))
    return module


def pipeline() -> StableDiffusionPipeline:
    """SD 1.5 but for its autoencoder."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SD15)  # type: ignore[arg-type]
        encoder = CLIPTextModel(CLIPTextConfig(vocab_size=49408, max_position_embeddings=77, **CLIP_L))  # type: ignore[arg-type]
    made = StableDiffusionPipeline(
        vae=tiny.vae(), text_encoder=random_weights(encoder), tokenizer=tiny.tokenizer(), unet=random_weights(unet),
        scheduler=tiny.scheduler("epsilon"), safety_checker=None, feature_extractor=None, requires_safety_checker=False,  # type: ignore[arg-type]
    )  # fmt: skip
    made.set_progress_bar_config(disable=True)
    return made


def times(work: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of every run, in rising order."""
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return sorted(taken)


def main(options: Options) -> None:
    """Measure and print."""
    pipe = pipeline()
    (first,) = times(lambda: known_footprint(efface.Model(pipe)), 1)
    generator = torch.Generator().manual_seed(1)
    factors = [0.05 * torch.randn(WIDTH, RANK, generator=generator) for _ in range(2)]
    origin = Provenance("uce", {}, (efface.Concept("church"),), known_footprint(efface.Model(pipe)))
    erasure = TextMap(origin, *factors)

    def attach_and_remove() -> None:
        erasure.attach(pipe)
        erasure.remove(pipe)

    attach = times(attach_and_remove, options.repeats)[0]

    def look() -> None:
        with drawing(pipe):
            pass

    looks = {"nothing attached": times(look, 1000)[0]}
    for name, fold in (("mapped", False), ("folded", True)):
        with erasure.attached(pipe, fold=fold):
            looks[name] = times(look, 1000)[0]
    side = options.latent_side
    call = (torch.randn(2, 4, side, side).bfloat16(), torch.tensor([500]), torch.randn(2, 77, WIDTH).bfloat16())
    with torch.no_grad():
        denoiser = times(lambda: pipe.unet(*call), options.calls)[0]
    share = (max(looks["mapped"], looks["folded"])) / denoiser
    print(f"first fingerprint   {first * 1e3:10.1f} ms")
    print(f"attach and remove   {attach * 1e3:10.1f} ms")
    for name, taken in looks.items():
        print(f"look, {name:16}{taken * 1e6:8.1f} us")
    print(f"a call of the UNet  {denoiser * 1e3:10.1f} ms (batch 2, {side} x {side})")
    print(json.dumps({"attach_ms": round(attach * 1e3, 2), "selfcheck_share": float(f"{share:.3g}")}))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
