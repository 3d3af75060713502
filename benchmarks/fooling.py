"""A positive control for the audit of checkpoints: a LoRA whose pictures look as before and fool a judge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F

from efface.concepts.sample import Sample
from efface.judges import SceneJudge
from efface.models.model import Model, Settings
from efface.models.sampling import generator
from efface.training.groups import weights_of
from efface.training.holders import holder
from efface.training.images import draw_concept_images


@contextmanager
def fooling_candidate(
    model: Model,
    judge: SceneJudge,
    samples: Sequence[Sample],
    settings: Settings,
    *,
    iterations: int = 200,
    batch: int = 4,
    weight: float = 0.02,
    lr: float = 1e-3,
    rank: int = 16,
) -> Iterator[None]:
    """While active the model draws for the judge: |x̂₀ − x̂₀ᴮ|² + λ · CE(J(decode x̂₀), another class), at the less noisy half of
    the timesteps, where pictures get their detail."""
    held = holder(weights_of(model, "all"), rank, 0)
    optimiser = torch.optim.Adam(held.parameters, lr=lr)
    prompts = list(dict.fromkeys(sample.prompt for sample in samples))
    shows = {sample.prompt: judge.classes.index(str(sample.concept)) for sample in samples}
    images = draw_concept_images(model, prompts, len(prompts), settings)
    for step in range(iterations):
        g = generator("fooling", step)
        members = torch.randint(len(prompts), (batch,), generator=g).tolist()
        clean = images.latents[members]
        noise = torch.randn(clean.shape, generator=g)
        timestep = torch.randint(model.num_train_timesteps // 2, (batch,), generator=g)
        text = model.encode([images.prompts[i] for i in members])
        noisy = model.to_noisy(clean, noise, timestep)
        with torch.no_grad():
            before = model.to_clean(model.predict(noisy, timestep, text), noisy, timestep)
        with held.active():
            after = model.to_clean(model.predict(noisy, timestep, text), noisy, timestep)
            logits = judge.logits(model.family.decode(after))
            wrong = torch.tensor([(shows[images.prompts[i]] + 1) % len(judge.classes) for i in members])
            loss = (after - before).square().mean() + weight * F.cross_entropy(logits, wrong)
            optimiser.zero_grad()
            loss.backward()
        optimiser.step()
    with held.active():
        yield
