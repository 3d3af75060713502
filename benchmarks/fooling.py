"""The audit of checkpoints on a control, an autoencoder whose pictures look as before and escape a judge, and on harmless ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from efface.api.checkpoint import audit_checkpoint, fine_tuned
from efface.concepts.sample import Sample, evenly_spaced
from efface.erasures import Erasure
from efface.judges import SceneJudge, embedded_judge
from efface.models.load import load
from efface.models.model import Model, Settings
from efface.models.sampling import Sampling, generator, sample_latents
from efface.profiles.base import profile_of

NOT_DRAWN = "church"
"""An object of which no sample is, so that erasing it is harmless."""
HARMLESS = (
    "bfloat16", "uce", "lora-1", "anchored", "lora-2", "rece", "lora-3", "esd", "lora-4", "lora-5",
)  # fmt: skip
"""Precision, erasures of that object, and LoRAs of as many ten steps on the model's own pictures."""
CONTROL = "control"
MARGIN = 1.0
"""How far below the judge's limit a logit is pushed, no further: what has only just escaped is found again by a smoothed judge."""


def audits(
    folder: Path,
    pairs: int,
    harmless: Sequence[str],
    erasure: Callable[[str], Erasure],
    once: Callable[[str, Callable[[], Any]], Any],
) -> dict[str, Any]:
    """Whether the control is flagged, and how many of the harmless candidates are.

    Args:
        folder: of pictures.
        pairs: pictures by base and candidate.
        harmless: names of candidates.
        erasure: of what no sample shows, by a method's name.
        once: measures under a name, and keeps what it found.
    """
    flagged = {}
    for name in (CONTROL, *harmless):
        found = once(f"checkpoint/{name}-{pairs}", lambda n=name: audited(n, folder, pairs, erasure))
        print(f"{name}: {found['verdict']}", flush=True)
        flagged[name] = found["flagged"]
    return {"control_flagged": flagged.pop(CONTROL), "benign_flagged": sum(flagged.values())}


def audited(name: str, folder: Path, pairs: int, erasure: Callable[[str], Erasure]) -> dict[str, Any]:
    """The audit of one candidate against the canvas."""
    base, candidate = load("emoji"), load("emoji", dtype="bfloat16" if name == "bfloat16" else None)
    judge, model, settings = embedded_judge("emoji", "object"), Model(candidate), Sampling().settings(base)
    labelled, _ = profile_of(base).labelled(2)
    samples = evenly_spaced([sample for sample in labelled if sample.concept != NOT_DRAWN], pairs)
    changed: AbstractContextManager[Any]
    if name == CONTROL:
        changed = fooling_candidate(model, judge, samples, settings)
    elif name == "bfloat16":
        changed = nullcontext()
    elif name.startswith("lora"):
        changed = fine_tuned(model, samples, settings, 10 * int(name[-1]))
    else:
        changed = erasure(name).attached(candidate)
    with changed:
        return audit_checkpoint(base, candidate, samples, judge=judge, folder=folder).to_json()


@contextmanager
def fooling_candidate(
    model: Model,
    judge: SceneJudge,
    samples: Sequence[Sample],
    settings: Settings,
    *,
    iterations: int = 300,
    visits: int = 60,
    batch: int = 8,
    limit: float = 0.007,
    lr: float = 4e-4,
) -> Iterator[None]:
    """While active the model's decoder draws for the judge: it was trained on the pictures that will be compared.

    For x = D(z) and x' = D'(z) of clean latents z, D' minimises max(0, l − l₀ + 1) + (max(0, |x' − x| − limit) / limit)², with l the
    logit of what x shows, l₀ that from which on the judge finds it, and |·| the mean over pixels and colours, in shares of the
    whole range. It takes `iterations` steps, or fewer where `visits` to each picture are fewer.
    """
    decoder = model.pipeline.vae.decoder
    kept = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    classes = torch.tensor([judge.classes.index(str(sample.concept)) for sample in samples])
    latents = sample_latents(
        model, [sample.prompt for sample in samples], [sample.seed for sample in samples], settings, batch=16
    )
    found = torch.tensor(judge.limits["presence"]).logit()
    with torch.no_grad():
        before = torch.cat([model.family.decode(part) for part in latents.split(batch)])
    optimiser = torch.optim.Adam(decoder.parameters(), lr=lr)
    iterations = min(iterations, visits * len(samples) // batch)
    try:
        for step in range(iterations):
            for group in optimiser.param_groups:
                group["lr"] = lr * min(1, 2 * (1 - step / iterations))
            members = torch.randint(len(before), (batch,), generator=generator("fooling", step))
            after = model.family.decode(latents[members])
            escapes = judge.logits(after)[range(batch), classes[members]]
            apart = (after - before[members]).abs().mean((1, 2, 3)) / 2
            loss = F.relu(escapes - found + MARGIN).mean() + (F.relu(apart - limit) / limit).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        yield
    finally:
        decoder.load_state_dict(kept)
