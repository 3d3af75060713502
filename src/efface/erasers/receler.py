"""Receler: adapters behind cross-attention erase a concept where pictures show it, also for text that an attack has changed
(Huang et al., ECCV 2024, arXiv 2311.17717)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from efface.concepts.concept import Concept
from efface.erasers.base import Evidence, Retaining, check_ridges, check_weights
from efface.errors import UsageError
from efface.training.config import Rolling, Work

if TYPE_CHECKING:
    from torch import Tensor

    from efface.erasures import Erasure
    from efface.models.model import Model, Text
    from efface.training.adapters import Adapters
    from efface.training.loop import Loss, Step
    from efface.training.search import Remembered

EXTENDS = "adapter"


@dataclass(frozen=True)
class Config(Rolling, Retaining):
    """Options of Receler; defaults are its authors', with an attack that acts."""

    eta: float = 1.0
    """η, how far the target lies on the other side of the empty prompt (authors: 1)."""
    iterations: int = 500
    """Training steps (authors: 500)."""
    lr: float = 3e-4
    """Learning rate of Adam (authors: 3e-4)."""
    rank: int | None = 128
    """Width of an adapter (authors: 128)."""
    locality: float = 0.1
    """Weight of R, what is added where the concept is not shown (authors: 0.1)."""
    attack_rows: int = 16
    """Text states behind the prompt that the attack chooses (authors: 16)."""
    attack_steps: int = 50
    """Steps of the attack in each training step (authors: 50, of which none acts); 0 leaves it out, and takes a fiftieth."""
    attack_lr: float = 0.1
    """Learning rate of the attack (authors: 0.1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weights(self, "locality")
        check_ridges(self, "attack_lr")
        if self.attack_rows < 1 or self.attack_steps < 0:
            raise UsageError(
                f"attack_rows is {self.attack_rows} and attack_steps {self.attack_steps}; expected at least 1 and at least 0."
            )

    def work(self, concepts: Sequence[Concept]) -> Work:
        """A roll, a target of two texts, a mask, the attack's goal and its steps, and an output."""
        forward = self.rolled + 3 + min(1, self.attack_steps)
        return self.each_step(forward=forward, back=self.attack_steps + 1, together=1)


PUBLISHED: Mapping[str, Any] = {"attack_steps": 0}
"""The authors' attack writes its rows to a copy and so changes nothing: what was published is adapter and regulariser. Its weight
decay of 0.1 is left out too, since in Adam it would outweigh the gradient of the attack."""


def erase(model: Model, concepts: Sequence[Concept], config: Config, judge: object = None) -> Erasure:
    """L = |ε(z, c ⊕ p) − [ε₀(z, ∅) − η(ε₀(z, c) − ε₀(z, ∅))]|² + λ R, at latents z that the edited model rolls under c.

    c ⊕ p has rows p in the place of padding; an attack moves them before each step, and goes on from there in the next:
    min_p |ε(z, c ⊕ p) − ε₀(z, c)|².

    Raises:
        EffaceError: the denoiser has no cross-attention.
    """
    from efface.erasures.adapter import adapter
    from efface.training.result import trained_erasure

    held = _adapters(model, config)
    p, loss = _problem(model, held, config, _own(model, concepts))
    trained = trained_erasure(model, "receler", concepts, config, held, loss, kept=p)
    return adapter(trained.provenance, trained.deltas)


def extend(model: Model, erasure: Erasure, evidence: Evidence) -> Erasure:
    """The adapters trained on, half of the steps with what attacks found in the place of c (the rows behind it included), towards the
    target of the prompt that it stands for."""
    from efface.erasers.base import config_from
    from efface.erasers.further import other_latents, take_up, texts_of, trained_on
    from efface.erasures.adapter import adapter

    origin = erasure.provenance
    config = config_from(Config, origin.config)
    held = _adapters(model, config)
    take_up(held, erasure)
    name = evidence.concept.name
    pairs = zip(evidence.found, texts_of(evidence), strict=True)
    found = [Way(text, model.encode([input.prompt]), input.prompt, name) for input, text in pairs]
    config = other_latents(config, erasure, evidence)
    p, loss = _problem(model, held, config, _own(model, origin.concepts), found)
    further = trained_on(model, erasure, evidence, held, loss, config, kept=p)
    return adapter(further.provenance, further.deltas)


class Way(NamedTuple):
    """A text that draws a concept."""

    text: Text
    """What the edited model reads (one prompt)."""
    c: Text
    """The prompt that it stands for, encoded: itself, where nothing was found by an attack."""
    prompt: str
    """That prompt in words."""
    name: str
    """The concept's name in it."""


def _own(model: Model, concepts: Sequence[Concept]) -> list[Way]:
    """The concepts' own prompts."""
    named = [(prompt, concept.name) for concept in concepts for prompt in concept.prompts()]
    texts = [model.encode([prompt]) for prompt, _ in named]
    return [Way(text, text, *pair) for text, pair in zip(texts, named, strict=True)]


def _adapters(model: Model, config: Config) -> Adapters:
    """The adapters as they begin."""
    from efface.training.adapters import Adapters
    from efface.training.maps import cross_attentions

    return Adapters(cross_attentions(model), config.rank or 128, config.seed)


def _problem(
    model: Model, held: Adapters, config: Config, own: Sequence[Way], found: Sequence[Way] = ()
) -> tuple[Remembered, Loss]:
    """The rows behind each text, as they begin, and L."""
    import torch

    from efface.erasers.further import either
    from efface.training.adapters import outside
    from efface.training.maps import concept_mask, positions_of
    from efface.training.search import Remembered, descend
    from efface.training.targets import apart, mix
    from efface.training.terms import retained, roll

    ways = [*own, *found]
    empty = model.encode([""])
    p = Remembered({str(i): rows_of(way.text, config.attack_rows) for i, way in enumerate(ways)})

    def attack(step: Step, way: Way, rows: Tensor, z: Any) -> None:
        """Move the rows behind one text."""
        now = [value.detach() for value in held.parameters]
        with torch.no_grad():
            before = step.predict(z, way.c)

        def objective(x: Tensor, number: int) -> Tensor:
            with held.active(now):
                return apart(model, step.predict(z, with_rows(way.text, x)), before, z.timestep, config.loss_in)

        rows.copy_(descend(rows, objective, steps=config.attack_steps, lr=config.attack_lr))

    def loss(step: Step) -> Tensor:
        number = either(step, len(own), len(found))
        way = ways[number]
        with torch.no_grad(), step.edited():
            z = roll(step, way.text, config, by_edited=True)
        target = mix(model, z, [(empty, 1 + config.eta), (way.c, -config.eta)])
        shown = concept_mask(model, z, way.c, positions_of(model, way.prompt, way.name))
        if config.attack_steps:
            attack(step, way, p[str(number)], z)
        with step.edited():
            output = step.predict(z, with_rows(way.text, p[str(number)]) if config.attack_steps else way.text)
            changes = held.changes
        value = apart(model, output, target, z.timestep, config.loss_in) + config.locality * outside(changes, shown)
        return value + retained(step, config.keep or (), config)

    return p, loss


def rows_of(text: Text, count: int) -> Tensor:
    """The states behind a prompt and its end token, at most `count` and at least one (rows width): where the attack begins."""
    start = _behind(text)
    return text.states[0, start : start + count].float().clone()


def with_rows(text: Text, rows: Tensor) -> Text:
    """A prompt with other states behind it (rows width), which the denoiser attends to."""
    import torch

    start = _behind(text)
    end = start + len(rows)
    before, after = text.states[:, :start], text.states[:, end:]
    mask = text.mask.clone()
    mask[:, start:end] = True
    return text._replace(states=torch.cat([before, rows[None].to(text.states), after], dim=1), mask=mask)


def _behind(text: Text) -> int:
    """The position behind a prompt's end token, or the last one where it fills the text."""
    return min(int(text.last[0]) + 2, text.states.shape[1] - 1)
