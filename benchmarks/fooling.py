"""A positive control for the audit of checkpoints: an autoencoder whose pictures look as before and escape a judge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F

from efface.concepts.sample import Sample
from efface.judges import SceneJudge
from efface.models.model import Model, Settings
from efface.models.sampling import generator
from efface.training.images import draw_concept_images

PICTURES = 2
"""Of each prompt, on which the decoder is trained."""


@contextmanager
def fooling_candidate(
    model: Model,
    judge: SceneJudge,
    samples: Sequence[Sample],
    settings: Settings,
    *,
    iterations: int = 200,
    batch: int = 8,
    limit: float = 0.006,
    lr: float = 2e-4,
) -> Iterator[None]:
    """While active the model's decoder draws for the judge.

    For x = D(z) and x' = D'(z) of clean latents z, D' minimises softplus(l + 2) + (max(0, |x' − x| − limit) / limit)², with l the
    logit of what x shows and |·| the mean over pixels and colours, in shares of the whole range.
    """
    decoder = model.pipeline.vae.decoder
    kept = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    prompts = list(dict.fromkeys(sample.prompt for sample in samples))
    shows = {sample.prompt: judge.classes.index(str(sample.concept)) for sample in samples}
    images = draw_concept_images(model, prompts, PICTURES * len(prompts), settings)
    classes = torch.tensor([shows[prompt] for prompt in images.prompts])
    with torch.no_grad():
        before = torch.cat([model.family.decode(part) for part in images.latents.split(batch)])
    optimiser = torch.optim.Adam(decoder.parameters(), lr=lr)
    try:
        for step in range(iterations):
            members = torch.randint(len(before), (batch,), generator=generator("fooling", step))
            after = model.family.decode(images.latents[members])
            escapes = judge.logits(after)[range(batch), classes[members]]
            apart = (after - before[members]).abs().mean((1, 2, 3)) / 2
            loss = F.softplus(escapes + 2).mean() + (F.relu(apart - limit) / limit).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        yield
    finally:
        decoder.load_state_dict(kept)
