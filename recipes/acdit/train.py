"""Train the transformer: every block at a level of its own, with the clean blocks before it (flow matching).

    python -m recipes.acdit.train --work build/acdit --seconds 3300
    python -m recipes.acdit.train --work build/acdit --steps 20 --batch 8
    python -m recipes.acdit.train --work build/acdit --steps 0 --publish recipes/acdit/weights

One thread is enough; a run that was stopped goes on where it stood.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from einops import repeat
from safetensors.torch import save_file
from torch import Tensor

from efface.families.acdit_network import ACDiTTransformer2DModel
from recipes.acdit import data
from recipes.emoji.muon import Muon
from recipes.emoji.training import DEVICE, Run, stage, step_generator, time_left

OUTER = ("noised_embed.weight", "clean_embed.weight", "proj_out.weight", "position_embed")
"""Matrices that AdamW takes: first and last layers, positions."""
SHIFT = 2.0
"""Above 1, more of the levels are where noise prevails."""
EMPTY = 0.1
"""Share of pictures without a caption."""
TEXT_NOISE = 0.4
"""Largest noise on text states, as a share of their spread; half of the captions have none."""
CONTEXT_NOISE = 0.15
"""Largest noise on clean blocks: in use they are the model's own."""


def batch_of(
    scenes: dict[str, Tensor], count: int, blocks_a_side: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """What one step is given: clean latents, noised ones, levels, velocities, text states."""
    options = {"generator": generator, "device": DEVICE}
    chosen = torch.randint(len(scenes["latents"]), (count,), **options)
    which = torch.randint(scenes["states"].shape[1], (count,), **options)
    text = scenes["states"][chosen, which].float()
    text = torch.where(torch.rand(count, 1, 1, **options) < EMPTY, scenes["nothing"].float(), text)
    amount = (2 * torch.rand(count, 1, 1, **options) - 1).clamp(min=0)
    text = text + TEXT_NOISE * amount * text.std() * torch.randn(text.shape, **options)
    clean = scenes["latents"][chosen].float()
    noise = torch.randn(clean.shape, **options)
    u = torch.rand(count, blocks_a_side**2, **options)
    levels = SHIFT * u / (1 + (SHIFT - 1) * u)
    cells = clean.shape[-1] // blocks_a_side
    share = repeat(levels, "b (r c) -> b 1 (r h) (c w)", r=blocks_a_side, h=cells, w=cells)
    shaken = CONTEXT_NOISE * torch.rand(count, 1, 1, 1, **options) * torch.randn(clean.shape, **options)
    return {
        "clean": clean + shaken,
        "noised": torch.lerp(clean, noise, share),
        "levels": 1000 * levels,
        "velocity": noise - clean,
        "text": text,
    }


def loss_of(network: ACDiTTransformer2DModel, given: dict[str, Tensor]) -> Tensor:
    """Mean squared error of the velocity."""
    predicted = network.training_pass(given["clean"], given["noised"], given["levels"], given["text"])
    return (predicted - given["velocity"]).square().mean()


def publish(network: ACDiTTransformer2DModel, folder: Path) -> None:
    """Write the network's configuration and its weights in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    network.save_config(folder)
    weights = {name: value.detach().half().contiguous() for name, value in network.state_dict().items()}
    save_file(weights, folder / "diffusion_pytorch_model.safetensors", {"format": "pt"})


def main() -> None:
    """Train, or go on training; write the averaged weights where `--publish` says."""
    options = stage(
        __doc__ or "", steps=3000, batch=32, lr=2e-3, seed=0, seconds=None, until=0.0, publish="", each=32, captions=2
    )
    data.main(options.work, options.each, options.captions, options.seed)
    scenes = data.load(options.work)
    torch.manual_seed(options.seed)
    network = ACDiTTransformer2DModel().to(DEVICE)
    print(f"{sum(p.numel() for p in network.parameters()) / 1e6:.2f} M weights", flush=True)
    optimiser = Muon([network], options.lr, outer=OUTER)
    run = Run(options.work / "run", {"network": network}, optimiser, decay=0.998)
    recent = float("nan")
    for step in run.steps(options.steps, options.lr, hold=0.4, seconds=time_left(options)):
        generator = step_generator(options.seed, step, DEVICE)
        loss = loss_of(network, batch_of(scenes, options.batch, network.blocks_a_side, generator))
        run.descend(loss)
        recent = loss.item() if math.isnan(recent) else 0.98 * recent + 0.02 * loss.item()
        run.log(25, loss=recent)
    if options.publish:
        run.load_averaged()
        publish(network, Path(options.publish))
    print(f"{run.step} steps", flush=True)


if __name__ == "__main__":
    main()
