"""AEGIS: the word that attacks and the target of the erasure move with the model, and what an update undoes of the original is
taken out of it (ICLR 2026; the authors' repository holds no code, so that this follows the formulas and claims no parity)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from efface.concepts.concept import Concept
from efface.erasers.base import Evidence, FoundInput, Retaining, check_ridges
from efface.errors import UsageError
from efface.training.config import Rolling, Where, Work

if TYPE_CHECKING:
    from torch import Tensor

    from efface.erasures import Erasure
    from efface.models.model import Model, Text
    from efface.training.holders import Dense, LowRank
    from efface.training.latents import Noisy
    from efface.training.loop import Loss, Step
    from efface.training.search import Remembered

EXTENDS = "delta"


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

    def work(self, concepts: Sequence[Concept]) -> Work:
        """A roll, what both words are compared with, a target of two texts, a step of each word, and an output."""
        return self.each_step(forward=self.rolled + 4, back=3, together=1)


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
    from efface.training.result import trained_erasure
    from efface.training.search import require_words

    require_words(model, "aegis")
    held = _weights(model, config)
    moving = Moving.begin(model, config, _own(model, concepts))
    start = [value.detach().clone() for value in held.parameters]
    last = max(1, config.iterations - 1)
    loss = _loss(moving, start, lambda number: config.most * number / last, len(moving.ways))
    return trained_erasure(model, "aegis", concepts, config, held, loss, kept=moving.kept)


def extend(model: Model, erasure: Erasure, evidence: Evidence) -> Erasure:
    """The weights trained on from where they ended, with ω where it ended, half of the steps with what attacks found in the place of
    the prompt that it stands for (c* is a word before it; text states are taken as they are). The moving words begin anew, since
    they are no part of the file."""
    from efface.erasers.base import config_from
    from efface.erasers.further import other_latents, take_up, texts_of, trained_on
    from efface.erasures.delta import weight_delta

    origin = erasure.provenance
    config = config_from(Config, origin.config)
    held = _weights(model, config)
    start = [value.detach().clone() for value in held.parameters]
    take_up(held, erasure)
    config = other_latents(config, erasure, evidence)
    own = _own(model, origin.concepts)
    pairs = zip(evidence.found, texts_of(evidence), strict=True)
    found = [_found(model, evidence.concept.name, input, text) for input, text in pairs]
    moving = Moving.begin(model, config, [*own, *found])
    loss = _loss(moving, start, lambda _: config.most, len(own))
    further = trained_on(model, erasure, evidence, held, loss, config, kept=moving.kept)
    return weight_delta(further.provenance, further.deltas)


class Way(NamedTuple):
    """An input that draws a concept."""

    prompt: str
    """c, the prompt that it is, or stands for."""
    name: str
    """The concept's name in it, in whose place the target's word stands."""
    attacked: Callable[[Tensor], Text]
    """Takes the word that attacks (1 width); gives the input behind it, encoded."""


def _own(model: Model, concepts: Sequence[Concept]) -> list[Way]:
    """The concepts' own prompts."""
    from efface.training.search import behind, with_words

    table = model.token_table().float()

    def attacked(prompt: str, word: Tensor) -> Text:
        return with_words(model, table, [behind(model, prompt, 1)], word)

    return [Way(p, concept.name, partial(attacked, p)) for concept in concepts for p in concept.prompts()]


def _found(model: Model, name: str, input: FoundInput, text: Text) -> Way:
    """What an attack found."""
    from efface.erasers.further import encoded

    table = model.token_table().float()

    def attacked(word: Tensor) -> Text:
        # No word can be put before states; the sum keeps them a function of it, whose gradient is 0.
        if input.only_states:
            return text._replace(states=text.states + 0 * word.sum().to(text.states))
        return encoded(model, table, input, word)

    return Way(input.prompt, name, attacked)


def _weights(model: Model, config: Config) -> Dense | LowRank:
    """What is trained."""
    from efface.training.groups import weights_of
    from efface.training.holders import holder

    return holder(weights_of(model, config.where), config.rank, config.seed)


def _loss(moving: Moving, start: Sequence[Tensor], omega: Callable[[int], float], own: int) -> Loss:
    """L, which leaves its gradients itself.

    Args:
        moving: the inputs and their words.
        start: what the trained values are in the original model.
        omega: ω of a step, by its number.
        own: how many of the inputs are the concepts' own prompts; the others attacks found.
    """
    from efface.erasers.further import either
    from efface.training.targets import apart, mix
    from efface.training.terms import retained, roll

    model, config = moving.model, moving.config
    empty = model.encode([""])

    def loss(step: Step) -> Tensor:
        number = either(step, own, len(moving.ways) - own)
        z = roll(step, model.encode([moving.ways[number].prompt]), config)
        attacked, goal = moving.after(step, number, z)
        target = mix(model, z, [(empty, 1 + config.eta), (goal, -config.eta)])
        with step.edited():
            value = apart(model, step.predict(z, attacked), target, z.timestep, config.loss_in)
        value = value + retained(step, config.keep or (), config)
        drift = [p.detach() - p_0 for p, p_0 in zip(step.held.parameters, start, strict=True)]
        step.descend_along(without_drift(step.gradients(value), drift, omega(step.number)))
        return value.detach()

    return loss


class Moving(NamedTuple):
    """The words that move with the training: of each input one that attacks, and one in the target."""

    model: Model
    config: Config
    ways: list[Way]
    """The inputs."""
    kept: Remembered
    """`attack-I` and `target-I`, the words of input I (1 width)."""

    @classmethod
    def begin(cls, model: Model, config: Config, ways: list[Way]) -> Moving:
        """Targets at the concept's own last token, attacks at random."""
        import torch

        from efface.training.search import Remembered, tokens_of

        table = model.token_table().float()
        words = {f"target-{i}": table[tokens_of(model, way.name)[-1:]].clone() for i, way in enumerate(ways)}
        g = torch.Generator().manual_seed(config.seed)
        random = torch.randn(len(ways), 1, table.shape[1], generator=g).to(table.device) * table.std()
        kept = Remembered(words | {f"attack-{i}": word.clone() for i, word in enumerate(random)})
        return cls(model=model, config=config, ways=ways, kept=kept)

    def after(self, step: Step, number: int, z: Noisy) -> tuple[Text, Text]:
        """c* and c' of an input after one step of each."""
        import torch

        from efface.training.search import around, signed_step, with_words
        from efface.training.targets import apart

        model, config, way = self.model, self.config, self.ways[number]
        c, place, table = model.encode([way.prompt]), around(model, way.prompt, way.name), model.token_table().float()
        now = [value.detach() for value in step.held.parameters]
        with torch.no_grad():
            frozen = step.predict(z, c)
            with step.held.active(now):
                edited = step.predict(z, c)

        def attack(v: Tensor, _: int) -> Tensor:
            with step.held.active(now):
                return apart(model, step.predict(z, way.attacked(v)), frozen, z.timestep, config.loss_in)

        def goal(v: Tensor) -> Text:
            return with_words(model, table, [place], v)

        def target(v: Tensor, _: int) -> Tensor:
            output = step.predict(z, goal(v))
            to_edited, to_frozen = (apart(model, output, o, z.timestep, config.loss_in) for o in (edited, frozen))
            return to_edited + to_frozen

        texts = []
        for name, objective, says, lr in (
            (f"attack-{number}", attack, way.attacked, config.attack_lr),
            (f"target-{number}", target, goal, config.target_lr),
        ):
            self.kept[name].copy_(signed_step(self.kept[name], objective, lr=lr))
            with torch.no_grad():
                texts.append(says(self.kept[name]))
        return texts[0], texts[1]


def without_drift(gradients: Sequence[Tensor], drift: Sequence[Tensor], omega: float) -> list[Tensor]:
    """Gradients less ω of their part that leads further along a drift, both taken as one vector over all tensors; the gradients
    themselves where they lead back."""
    inner = sum(float((g * d).sum()) for g, d in zip(gradients, drift, strict=True))
    if inner >= 0:
        return list(gradients)
    share = omega * inner / sum(float(d.square().sum()) for d in drift)
    return [g - share * d for g, d in zip(gradients, drift, strict=True)]
