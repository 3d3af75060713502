"""HiRM: what the last layer of a text encoder attends to for a concept is moved elsewhere by its first layer (ICLR 2026,
arXiv 2602.19631)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from efface.concepts.concept import Concept
from efface.erasers.base import Retaining, check_ridges
from efface.training.config import Training, Work

if TYPE_CHECKING:
    from torch import Tensor

    from efface.erasures import Erasure
    from efface.models.model import Model
    from efface.training.loop import Step

RETAINED = 8
"""Retained prompts a step."""


@dataclass(frozen=True)
class Config(Training, Retaining):
    """Options of HiRM; defaults are the paper's for a style. It draws nothing, so that sizes and units of a loss in the
    denoiser do not matter."""

    denoises: ClassVar[bool] = False
    form: Literal["semantic", "random"] = "semantic"
    """`semantic` (HiRM-S): v_t is what the anchor has at token t; `random` (HiRM-R): a random direction of length C."""
    encoders: tuple[str, ...] = ()
    """Text encoders to train; by default all of CLIP's, or all where there is none (a T5 beside them stays as it is)."""
    iterations: int = 30
    """Training steps (paper: 30 for a style, 40 with random directions; 15 and 25 for an object; 25 and 50 for nudity)."""
    lr: float = 5e-5
    """Learning rate of AdamW (paper: 5e-5; 1e-4 for nudity)."""
    length: float = 500.0
    """C, length of a random v_t (paper: 500)."""
    aliases: bool = True
    """Whether the concepts' aliases are erased with them (paper: several keywords for nudity)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ridges(self, "length")

    def work(self, concepts: Sequence[Concept]) -> Work:
        """The concepts' texts once, retained ones twice."""
        texts = sum(len(concept.prompts()) * (1 + self.aliases * len(concept.aliases)) for concept in concepts)
        retained = min(RETAINED, len(self.keep or ())) if self.retain else 0
        return self.each_step(forward=retained, back=texts + retained, together=texts + retained)


PUBLISHED: Mapping[str, Any] = {
    "iterations": lambda concepts: {"object": 15, "explicit": 25}.get(concepts[0].kind, 30),
    "lr": lambda concepts: 1e-4 if concepts[0].kind == "explicit" else 5e-5,
}
"""Those of HiRM-S by kind of concept; its direction for nudity, which is learnt as Ring-A-Bell's, is that of the anchor here."""


def erase(model: Model, concepts: Sequence[Concept], config: Config, judge: object = None) -> Erasure:
    """L = mean over tokens t of |h_t(c) − v_t|², h the attention's output of the last layer, the first layer trained.

    Random directions are Gaussian, one a token: a vector of uniform numbers, as a public port has it, has a cosine of 0.75
    with every other. Where texts have no common length, tokens that both have are compared.
    """
    import torch

    from efface.closed_form.rows import with_aliases
    from efface.concepts.concept import default_anchor
    from efface.training.encoders import first_layer, last_read, read, trained_encoders, watched
    from efface.training.holders import holder
    from efface.training.result import trained_erasure

    named = with_aliases(concepts, config.aliases)
    prompts = [prompt for concept in named for prompt in concept.prompts()]
    anchors = [anchor for concept in named for anchor in concept.anchors(default_anchor(concept))]
    encoders = trained_encoders(model, config.encoders)
    outputs = [last_read(model, name).module for name in encoders]

    def h(texts: Sequence[str]) -> list[Tensor]:
        with watched(outputs) as seen:
            read(model, texts)
        return [seen[number].float() for number in range(len(outputs))]

    with torch.no_grad():
        v = h(anchors if config.form == "semantic" else prompts)
    if config.form == "random":
        g = torch.Generator().manual_seed(config.seed)
        directions = [torch.randn(h_c.shape[1:], generator=g).to(h_c) for h_c in v]
        v = [config.length * u / u.norm(dim=-1, keepdim=True) for u in directions]

    def loss(step: Step) -> Tensor:
        with step.edited():
            value = torch.stack([_apart(h_c, v_c) for h_c, v_c in zip(h(prompts), v, strict=True)]).sum()
        return value + _retained(step, config)

    weights = [weight for name in encoders for weight in first_layer(model, name)]
    held = holder(weights, config.rank, config.seed)
    optimiser = torch.optim.AdamW(held.parameters, lr=config.lr, betas=(0.9, 0.98), weight_decay=0.0)
    return trained_erasure(model, "hirm", concepts, config, held, loss, optimiser=optimiser)


def _apart(one: Tensor, other: Tensor) -> Tensor:
    """Mean squared difference at the tokens that both have (… tokens width)."""
    tokens = min(one.shape[-2], other.shape[-2])
    return (one[..., :tokens, :] - other[..., :tokens, :]).square().mean()


def _retained(step: Step, config: Config) -> Tensor:
    """λ |E(r) − E₀(r)|² on some of the retained prompts, of all that is read of them; 0 where λ is."""
    import torch

    from efface.training.encoders import read

    if not config.retain or not config.keep:
        return torch.zeros(())
    prompts = [step.pick(config.keep) for _ in range(min(RETAINED, len(config.keep)))]
    with torch.no_grad():
        before = read(step.model, prompts)
    with step.edited():
        after = read(step.model, prompts)
    value = _apart(after.states.float(), before.states.float())
    if after.pooled is not None and before.pooled is not None:
        value = value + (after.pooled.float() - before.pooled.float()).square().mean()
    return config.retain * value
