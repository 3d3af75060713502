"""AEGIS: the word that attacks and the target of the erasure move with the model, and what an update undoes of the original is
taken out of it (ICLR 2026; the authors' repository holds no code, so that this follows the formulas and claims no parity)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from efface.concepts.concept import Concept
from efface.erasers.base import Retaining, check_ridges
from efface.errors import UsageError
from efface.training.config import Rolling, Where

if TYPE_CHECKING:
    from torch import Tensor

    from efface.erasures import Erasure
    from efface.models.model import Model, Text
    from efface.training.latents import Noisy
    from efface.training.loop import Step
    from efface.training.search import Remembered


@dataclass(frozen=True)
class Config(Rolling, Retaining):
    """Options of AEGIS; learning rate and number of steps are the paper's, the sizes of the searches' steps are ours."""

    where: Where = "rest"
    """Trained weights."""
    eta: float = 1.0
    """η, how far the target lies on the other side of the empty prompt."""
    iterations: int = 1000
    """Training steps (paper: 1000)."""
    lr: float = 1e-5
    """Learning rate of Adam (paper: 1e-5)."""
    attack_lr: float = 1e-3
    """Size of the attack's step along the signs of its gradient, one in each training step."""
    target_lr: float = 1e-3
    """β, the same of the target's word."""
    most: float = 1.0
    """ω at the last step, from 0 at the first: the share of a conflict with the original weights that is taken out of a gradient
    (paper: 1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ridges(self, "attack_lr", "target_lr")
        if not 0 <= self.most <= 1:
            raise UsageError(f"most is {self.most}; expected 0 to 1.")


PUBLISHED: Mapping[str, Any] = {}
"""There are no authors' values beside the defaults."""


def erase(model: Model, concepts: Sequence[Concept], config: Config, judge: object = None) -> Erasure:
    """L = |ε(z, c*) − [ε₀(z, ∅) − η(ε₀(z, c') − ε₀(z, ∅))]|², with

        c* = a word before c, one signed step a training step down |ε(c*) − ε₀(c)|²,
        c' = c with one word in the concept's place, one signed step down |ε₀(c') − ε(c)|² + |ε₀(c') − ε₀(c)|²,
        g  = g_e − ω ⟨g_e, Δθ⟩/‖Δθ‖² Δθ where ⟨g_e, Δθ⟩ < 0, over all trained values together, Δθ = θ − θ₀.

    Raises:
        EffaceError: the pipeline's text encoder takes whole prompts only, so that no word can be put before one.
    """
    import torch

    from efface.training.groups import weights_of
    from efface.training.holders import holder
    from efface.training.result import trained_erasure
    from efface.training.search import Remembered, require_words, tokens_of
    from efface.training.targets import apart, mix
    from efface.training.terms import retained, roll

    require_words(model, "aegis")
    named = [(prompt, concept.name) for concept in concepts for prompt in concept.prompts()]
    empty = model.encode([""])
    held = holder(weights_of(model, config.where), config.rank, config.seed)
    start = [value.detach().clone() for value in held.parameters]
    table = model.token_table().float()
    words = {f"target-{i}": table[tokens_of(model, name)[-1:]].clone() for i, (_, name) in enumerate(named)}
    g = torch.Generator().manual_seed(config.seed)
    random = torch.randn(len(named), 1, table.shape[1], generator=g).to(table.device) * table.std()
    kept = Remembered(words | {f"attack-{i}": word.clone() for i, word in enumerate(random)})
    moving = Moving(model=model, named=named, table=table, kept=kept, config=config)

    def loss(step: Step) -> Tensor:
        number = step.integer(len(named))
        z = roll(step, model.encode([named[number][0]]), config)
        attacked, goal = moving.after(step, number, z)
        target = mix(model, z, [(empty, 1 + config.eta), (goal, -config.eta)])
        with step.edited():
            value = apart(model, step.predict(z, attacked), target, z.timestep, config.loss_in)
        value = value + retained(step, config.keep or (), config)
        omega = config.most * step.number / max(1, config.iterations - 1)
        drift = [p.detach() - p_0 for p, p_0 in zip(held.parameters, start, strict=True)]
        step.descend_along(without_drift(step.gradients(value), drift, omega))
        return value.detach()

    return trained_erasure(model, "aegis", concepts, config, held, loss, kept=kept)


class Moving(NamedTuple):
    """The words that move with the training: of each prompt one that attacks, and one in the target."""

    model: Model
    named: list[tuple[str, str]]
    """Each prompt, and the concept's name in it, in whose place the target's word stands."""
    table: Tensor
    """Embedding of every token (vocabulary width)."""
    kept: Remembered
    """`attack-I` and `target-I`, the words of prompt I (1 width)."""
    config: Config

    def after(self, step: Step, number: int, z: Noisy) -> tuple[Text, Text]:
        """c* and c' of a prompt after one step of each."""
        import torch

        from efface.training.search import around, behind, signed_step, with_words
        from efface.training.targets import apart

        model, config = self.model, self.config
        prompt, name = self.named[number]
        c, row, place = model.encode([prompt]), behind(model, prompt, 1), around(model, prompt, name)
        now = [value.detach() for value in step.held.parameters]
        with torch.no_grad():
            frozen = step.predict(z, c)
            with step.held.active(now):
                edited = step.predict(z, c)

        def attack(v: Tensor, _: int) -> Tensor:
            with step.held.active(now):
                output = step.predict(z, with_words(model, self.table, [row], v))
                return apart(model, output, frozen, z.timestep, config.loss_in)

        def target(v: Tensor, _: int) -> Tensor:
            output = step.predict(z, with_words(model, self.table, [place], v))
            to_edited, to_frozen = (apart(model, output, o, z.timestep, config.loss_in) for o in (edited, frozen))
            return to_edited + to_frozen

        texts = []
        for name, objective, words, lr in (
            (f"attack-{number}", attack, row, config.attack_lr),
            (f"target-{number}", target, place, config.target_lr),
        ):
            self.kept[name].copy_(signed_step(self.kept[name], objective, lr=lr))
            with torch.no_grad():
                texts.append(with_words(model, self.table, [words], self.kept[name]))
        return texts[0], texts[1]


def without_drift(gradients: Sequence[Tensor], drift: Sequence[Tensor], omega: float) -> list[Tensor]:
    """Gradients less ω of their part that leads further along a drift, both taken as one vector over all tensors; the gradients
    themselves where they lead back."""
    inner = sum(float((g * d).sum()) for g, d in zip(gradients, drift, strict=True))
    if inner >= 0:
        return list(gradients)
    share = omega * inner / sum(float(d.square().sum()) for d in drift)
    return [g - share * d for g, d in zip(gradients, drift, strict=True)]
