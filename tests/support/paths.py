"""What a site gives along a picture's way."""

from __future__ import annotations

import torch

import tiny
from efface.sae.harvest import record_sites


def states_of(model, latents, level, prompt):
    """What the site gives for one noisy latent and a prompt (tokens width)."""
    site = model.sites(tiny.SITE)[0]
    with torch.no_grad(), record_sites([site]) as seen:
        model.predict(latents, torch.tensor([level]), model.encode([prompt]))
    return seen[tiny.SITE][0].double()


def way(model, prompt, seed):
    """Noisy latents before each step of one picture."""
    met = []
    text = model.encode([prompt])
    with torch.no_grad():
        for _ in model.denoise(text, seeds=[seed], steps=2, guidance=5.0, watch=lambda *seen: met.append(seen)):
            pass
    return met
