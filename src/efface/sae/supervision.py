"""Labels in the training of an autoencoder: one latent a concept, by what the pictures' prompts say that they show.

SAEmnesia (ICML 2026): each concept has one latent, whose logit says whether a picture shows it. SAEParate (arXiv 2605.12122):
pictures of one concept have like codes. Both read the mean over a picture's positions. A logit is taken before the ReLU, where
the mean over positions is that of the mean vector, m W_encᵀ + b: after it, an absent concept's logit could not fall below 0, and the
loss had neither a gradient there nor a minimum below ln 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from efface.errors import UsageError
from efface.sae.autoencoder import SparseAutoencoder

LENGTH_WEIGHT = 0.01
"""Of |logit|₁ beside the cross-entropy (SAEmnesia's repository)."""
CORRELATION_WEIGHT = 0.1
"""Of the squared correlation between latents of different kinds (the same)."""
TEMPERATURE = 0.07
"""SAEParate's."""
HARDNESS = math.log(4)
"""Added to the logit of a pair that shares one of two labels (SAEParate, both kinds together)."""


class Groups(NamedTuple):
    """Pictures at timesteps, each by the mean of its vectors."""

    means: Tensor
    """(timesteps pictures width)."""
    labels: Tensor
    """Which concepts a picture shows (pictures concepts)."""
    kinds: Tensor
    """Number of each concept's kind (concepts,)."""

    def some(self, count: int, seed: int) -> Groups:
        """Two views of each of `count` // 2 pictures, at timesteps next to each other, as two timesteps of a batch."""
        generator = torch.Generator().manual_seed(seed)
        timesteps, pictures, _ = self.means.shape
        chosen = torch.randperm(pictures, generator=generator)[: max(1, count // 2)]
        first = torch.randint(max(1, timesteps - 1), (len(chosen),), generator=generator)
        views = torch.stack([first, (first + 1).clamp(max=timesteps - 1)])
        return Groups(self.means[views, chosen], self.labels[chosen], self.kinds)


class Supervision(NamedTuple):
    """What labels add to a loss."""

    loss: Tensor
    """Without its weight."""
    gradients: dict[str, Tensor]
    """Parameter name -> gradient, of those that have one."""


def supervise(sae: SparseAutoencoder, groups: Groups, kind: str, assigned: Tensor | None, weight: float) -> Supervision:
    """Loss and weighted gradients of labels.

    Args:
        sae: the autoencoder in training.
        groups: some pictures.
        kind: `saemnesia` or `saeparate`.
        assigned: latent of each concept (concepts,), of SAEmnesia.
        weight: of this loss beside the others.
    """
    parameters = {"encoder.weight": sae.encoder.weight, "encoder.bias": sae.encoder.bias, "b_dec": sae.b_dec}
    with torch.enable_grad():
        w, b, centre = (parameter.detach().requires_grad_() for parameter in parameters.values())
        rows = slice(None) if assigned is None else assigned
        logits = (groups.means.flatten(0, 1).to(w) - centre) @ w[rows].T + b[rows]
        labels = groups.labels.repeat(len(groups.means), 1).to(w.device)
        if kind == "saemnesia":
            loss = saemnesia_loss(logits, labels, groups.kinds.to(w.device))
        else:
            loss = saeparate_loss(logits.relu(), labels, groups.kinds.to(w.device))
        gradients = torch.autograd.grad(weight * loss, (w, b, centre))
    return Supervision(loss.detach(), dict(zip(parameters, gradients, strict=True)))


def saemnesia_loss(logits: Tensor, labels: Tensor, kinds: Tensor) -> Tensor:
    """BCE + .01 mean |logit| + .1 mean squared correlation between latents of different kinds over the batch.

    Args:
        logits: mean before the ReLU of each concept's latent (groups concepts).
        labels: which concepts a group shows (groups concepts).
        kinds: number of each concept's kind (concepts,).
    """
    loss = F.binary_cross_entropy_with_logits(logits, labels.to(logits)) + LENGTH_WEIGHT * logits.abs().mean()
    apart = kinds[:, None] != kinds[None]
    if not apart.any():
        return loss
    centred = logits - logits.mean(0)
    unit = centred / centred.norm(dim=0).clamp(min=1e-8)
    return loss + CORRELATION_WEIGHT * (unit.T @ unit)[apart].square().mean()


def saeparate_loss(codes: Tensor, labels: Tensor, kinds: Tensor) -> Tensor:
    """SupCon: the mean over anchors with a like of −mean over its likes of log softmax of cosine / .07.

    Likes are groups that show the same concepts of every kind. Where there are several kinds, a pair that shares those of one alone
    counts four times among the others.

    Args:
        codes: activations before top-k (groups latents).
        labels: which concepts a group shows (groups concepts).
        kinds: number of each concept's kind (concepts,).
    """
    unit = codes / codes.norm(dim=1, keepdim=True).clamp(min=1e-8)
    same = torch.stack([_share(labels[:, kinds == kind].to(codes)) for kind in kinds.unique()])
    likes = same.all(0)
    logits = unit @ unit.T / TEMPERATURE + HARDNESS * (same.any(0) & ~likes)
    itself = torch.eye(len(codes), dtype=torch.bool, device=codes.device)
    logits = logits.masked_fill(itself, float("-inf"))
    likes = likes & ~itself
    log = (logits - logits.logsumexp(1, keepdim=True)).masked_fill(~likes, 0.0)
    anchors = likes.any(1)
    if not anchors.any():
        return codes.sum() * 0
    return -(log.sum(1)[anchors] / likes.sum(1)[anchors]).mean()


def _share(labels: Tensor) -> Tensor:
    """Whether two groups show a concept in common (groups groups)."""
    return labels @ labels.T > 0


@torch.no_grad()
def assign(sae: SparseAutoencoder, groups: Groups) -> Tensor:
    """One latent for each concept (concepts,), no two the same: that of its highest score, the share of all activity that a latent
    has on the concept's pictures less its share on the others of the kind, averaged over timesteps.

    The activity on a picture is read at the mean of its vectors.

    Raises:
        UsageError: there are fewer latents than concepts, or a concept is in no picture.
    """
    concepts = groups.labels.shape[1]
    if concepts > sae.config.latents:
        raise UsageError(
            f"{concepts} concepts cannot have one of {sae.config.latents} latents each: train more latents."
        )
    if not groups.labels.any(0).all():
        lost = int((~groups.labels.any(0)).sum())
        raise UsageError(
            f"{lost} of {concepts} concepts are in no picture of the first round: draw more pictures a round."
        )
    scores = torch.zeros(concepts, sae.config.latents)
    for at_timestep in groups.means:
        activity = sae.activations(at_timestep.to(sae.b_dec)).float().cpu()
        for concept in range(concepts):
            own = groups.labels[:, concept]
            kin = groups.labels[:, groups.kinds == groups.kinds[concept]].any(1) & ~own
            scores[concept] += _shares(activity[own]) - (_shares(activity[kin]) if kin.any() else 0.0)
    taken = torch.full((concepts,), -1)
    for _ in range(concepts):
        concept, latent = divmod(int(scores.argmax()), scores.shape[1])
        taken[concept] = latent
        scores[concept] = float("-inf")
        scores[:, latent] = scores[:, latent].clamp(max=torch.finfo(scores.dtype).min)
        scores[taken >= 0] = float("-inf")
    return taken


def _shares(activity: Tensor) -> Tensor:
    """Of the mean activity of some pictures, the share of each latent (latents,)."""
    mean = activity.mean(0)
    return mean / (mean.sum() + 1e-8)


def labels_of(prompts: Sequence[str], shows: dict[str, tuple[str, ...]], names: Sequence[str]) -> Tensor:
    """Which of some concepts the pictures of prompts show (prompts concepts).

    Raises:
        UsageError: nobody knows what a prompt shows.
    """
    if unknown := [prompt for prompt in prompts if prompt not in shows]:
        raise UsageError(f"nobody knows what {unknown[0]!r} shows: name the concepts of every prompt (--concepts).")
    return torch.tensor([[name in shows[prompt] for name in names] for prompt in prompts])
