"""STEREO: words that bring an erased concept back are searched one after the other, then all of them are erased at once
(Srivatsan et al., CVPR 2025, arXiv 2408.16807)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from efface.concepts.concept import Concept
from efface.erasers.base import Evidence, Retaining, check_ridges
from efface.errors import UsageError
from efface.training.config import Rolling, Where, Work

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from efface.erasures import Erasure
    from efface.models.model import Model, Text
    from efface.training.holders import Holder
    from efface.training.images import ConceptImages
    from efface.training.loop import Loss, Step, Trained
    from efface.training.result import Run
    from efface.training.ways import Group, Spoken

EXTENDS = "delta"


@dataclass(frozen=True)
class Config(Rolling, Retaining):
    """Options of STEREO; defaults are its authors'."""

    where: Where = "rest"
    """Trained weights."""
    iterations: int = 200
    """Training steps of the last stage (authors: 200)."""
    lr: float = 2e-5
    """Learning rate of AdamW in the last stage (authors: 2e-5)."""
    strength: float = 2.0
    """g: the anchor is guided towards by g − 1, the concept and its words away from by g + 1 (authors: 2)."""
    rounds: int = 4
    """Words searched for each concept (authors: 4; 2 for nudity)."""
    eta: float = 1.0
    """η of ESD's target ε₀(c) − η(ε₀(c) − ε₀(∅)) in a round (authors: 1)."""
    round_iterations: int = 200
    """Training steps of a round (authors: 200)."""
    round_lr: float = 5e-6
    """Learning rate of AdamW in a round (authors: 5e-6)."""
    images: int = 500
    """Pictures of a concept by which its words are learnt (authors: 500)."""
    word_iterations: int = 3000
    """Training steps of a word (authors: 3000)."""
    word_lr: float = 5e-3
    """Learning rate of AdamW for a word (authors: 5e-3)."""
    word_batch: int = 1
    """Pictures a step for a word."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ridges(self, "round_lr", "word_lr")
        if self.rounds < 0 or min(self.round_iterations, self.images, self.word_iterations, self.word_batch) < 1:
            raise UsageError(
                f"rounds is {self.rounds}, round_iterations {self.round_iterations}, images {self.images}, word_iterations "
                f"{self.word_iterations} and word_batch {self.word_batch}; expected at least 0, and at least 1 of each other."
            )

    def work(self, concepts: Sequence[Concept]) -> Work:
        """Rounds of erasing and of learning a word, and the last stage, whose target has three texts and one more by every word."""
        rounds = self.rounds * len(concepts)
        erased, learnt = rounds * self.round_iterations, rounds * self.word_iterations
        last = self.each_step(forward=self.rolled + 3 + self.rounds, back=1, together=1)
        return Work(
            steps=last.steps + erased + learnt,
            forward=last.forward + erased * (self.rolled + 2),
            back=last.back + erased + learnt * self.word_batch,
            together=max(last.together, self.word_batch if rounds else 1),
        )


PUBLISHED: Mapping[str, Any] = {"rounds": lambda concepts: 2 if concepts[0].kind == "explicit" else 4}
"""The authors' projected guidance is at its defaults the plain one that stands here."""


def pictures(concepts: Sequence[Concept], config: Config, *, judged: bool) -> int:
    """Pictures of the concepts by which words are learnt."""
    return config.images * len(concepts) if config.rounds else 0


def erase(model: Model, concepts: Sequence[Concept], config: Config, judge: object = None) -> Erasure:
    """Each concept's words first; then, from the original model and with C a prompt with all ways to say its concept and c' one
    of them,

        L = |ε(z, c') − [ε₀(∅) + (g − 1)(ε₀(a) − ε₀(∅)) − (g + 1) mean_C (ε₀(cᵢ) − ε₀(∅))]|².

    A run that is interrupted while it searches returns the concept's last round, an erasure of its own, and says so.

    Raises:
        EffaceError: the pipeline's text encoder takes whole prompts only, so that no new word can be put into one.
    """
    from efface.erasures.delta import weight_delta
    from efface.training import loop
    from efface.training.groups import weights_of
    from efface.training.holders import holder
    from efface.training.result import begin
    from efface.training.search import require_words
    from efface.training.ways import grouped

    require_words(model, "stereo")
    weights = weights_of(model, config.where)
    run = begin(model, "stereo", concepts, config)
    ways: list[list[Spoken]] = []
    steps = 0
    for number, concept in enumerate(concepts):
        search = Search(model, concept, config, number, run)
        found = search.words(holder(weights, config.rank, config.seed))
        ways.append(found.ways)
        steps += found.steps
        if found.stopped is not None:
            notes = {"steps": steps, "unfinished": config.iterations, "stage": f"searching words of {concept.name!r}"}
            return weight_delta(run.provenance(notes), found.stopped)
    held = holder(weights, config.rank, config.seed)
    groups = [group for concept, spoken in zip(concepts, ways, strict=True) for group in grouped(concept, spoken)]
    loss = last_loss(model, groups, config)
    trained = loop.train(model, held, loss, config, optimiser=_adamw(held, config.lr), folder=run.folder / "last")
    words = [len(found) - len(concept.prompts()) for found, concept in zip(ways, concepts, strict=True)]
    notes = trained.notes | {"steps": steps + trained.notes["steps"], "words": words}
    return weight_delta(run.provenance(notes), trained.deltas)


def extend(model: Model, erasure: Erasure, evidence: Evidence) -> Erasure:
    """The last stage trained on from where it ended, half of its steps on prompts of which attacks found other ways to say the
    concept; the words that `erase` found itself are no part of the file, and are not trained on again."""
    from efface.erasers.base import config_from
    from efface.erasers.further import other_latents, take_up, texts_of, trained_on
    from efface.erasures.delta import weight_delta
    from efface.training.groups import weights_of
    from efface.training.holders import holder
    from efface.training.ways import Spoken, grouped, said

    origin = erasure.provenance
    config = config_from(Config, origin.config)
    held = holder(weights_of(model, config.where), config.rank, config.seed)
    take_up(held, erasure)
    config = other_latents(config, erasure, evidence)
    own = [group for concept in origin.concepts for group in grouped(concept, said(model, concept.prompts()))]
    new = [Spoken(t, f.prompt) for f, t in zip(evidence.found, texts_of(evidence), strict=True)]
    found = grouped(evidence.concept, [*said(model, dict.fromkeys(way.prompt for way in new)), *new])
    loss = last_loss(model, own, config, found)
    optimiser = _adamw(held, config.lr)
    further = trained_on(model, erasure, evidence, held, loss, config, optimiser=optimiser)
    return weight_delta(further.provenance, further.deltas)


class Found(NamedTuple):
    """What a search came to."""

    ways: list[Spoken]
    """The concept's own prompts and those with its new words."""
    steps: int
    """Training steps that it took."""
    stopped: dict[str, Tensor] | None
    """The erasure of the round in which it was interrupted; None where it was not."""


@dataclass(frozen=True)
class Search:
    """The search for words of one concept."""

    model: Model
    concept: Concept
    config: Config
    number: int
    """The concept's, in the names of stages."""
    run: Run

    def words(self, held: Holder) -> Found:
        """Erase, learn a word that brings the concept back, erase that, … : each round goes on from the one before."""
        from efface.training.ways import Spoken, said

        config, concept = self.config, self.concept
        ways = said(self.model, concept.prompts())
        now, steps = ways, 0
        if not config.rounds:
            return Found(ways, steps, None)
        drawn = self._draw()
        for number in range(config.rounds):
            erased = self.run.stage(
                f"round-{self.number}-{number}", lambda f, now=now, n=number: self._erase(held, now, n, f)
            )
            steps += erased.notes["steps"]
            for i, value in enumerate(held.parameters):
                value.data.copy_(erased.deltas[str(i)])
            if "unfinished" in erased.notes:
                return Found(ways, steps, held.delta())
            learnt = self.run.stage(f"word-{self.number}-{number}", lambda f, n=number: self._learn(held, drawn, n, f))
            steps += learnt.notes["steps"]
            if "unfinished" in learnt.notes:
                return Found(ways, steps, held.delta())
            now = [Spoken(self._said(prompt, learnt.deltas["words"]), prompt) for prompt in concept.prompts()]
            ways = ways + now
        return Found(ways, steps, None)

    def _draw(self) -> ConceptImages:
        """The original model's pictures."""
        from efface.training.images import draw_concept_images

        settings: Any = {"steps": self.config.draw_steps, "guidance": 7.5, "side": self.config.side}
        return draw_concept_images(self.model, self.concept.prompts(), self.config.images, settings)

    def _erase(self, held: Holder, now: Sequence[Spoken], number: int, folder: Path) -> Trained:
        """ESD of the present words; its frozen model is what the round before came to."""
        from efface.training import loop
        from efface.training.targets import apart, mix
        from efface.training.terms import roll

        config, model = self.config, self.model
        before = [value.detach().clone() for value in held.parameters]
        empty = model.encode([""])

        def loss(step: Step) -> Tensor:
            c = step.pick(now).text
            with held.active(before):
                z = roll(step, c, config)
                target = mix(model, z, [(c, 1 - config.eta), (empty, config.eta)])
            with step.edited():
                return apart(model, step.predict(z, c), target, z.timestep, config.loss_in)

        seed = config.seed + number + 1  # rounds see other latents
        options = replace(config, iterations=config.round_iterations, lr=config.round_lr, seed=seed)
        trained = loop.train(model, held, loss, options, optimiser=_adamw(held, config.round_lr), folder=folder)
        return trained._replace(deltas={str(i): value.detach() for i, value in enumerate(held.parameters)})

    def _learn(self, held: Holder, drawn: ConceptImages, number: int, folder: Path) -> Trained:
        """Textual inversion of a new word on the model as it is erased now, from pictures of the original."""
        from efface.models.losses import denoising_loss
        from efface.training import loop
        from efface.training.holders import Words
        from efface.training.search import around, with_words

        config, model = self.config, self.model
        table = model.token_table().float()
        word = Words(table.mean(0)[None])
        now = [value.detach() for value in held.parameters]

        def loss(step: Step) -> Tensor:
            x = drawn.batch(config.word_batch, config.seed, self.number, number, step.number)
            rows = [around(model, drawn.prompts[i], self.concept.name) for i in x.members]
            text = with_words(model, table, rows, word.parameters[0])
            return denoising_loss(model, x.clean, x.noise, x.timesteps, text).mean()

        options = replace(config, iterations=config.word_iterations, lr=config.word_lr)
        with held.active(now):
            return loop.train(model, word, loss, options, optimiser=_adamw(word, config.word_lr), folder=folder)

    def _said(self, prompt: str, word: Tensor) -> Text:
        """A prompt with a new word in the place of the concept's name."""
        import torch

        from efface.training.search import around, with_words

        with torch.no_grad():
            table = self.model.token_table().float()
            return with_words(self.model, table, [around(self.model, prompt, self.concept.name)], word)


def last_loss(model: Model, own: Sequence[Group], config: Config, found: Sequence[Group] = ()) -> Loss:
    """L of the last stage, one prompt a step; in half of the steps one of which attacks found other ways, where there are some."""
    from efface.erasers.further import either
    from efface.training.targets import apart, mix
    from efface.training.terms import retained, roll

    empty = model.encode([""])
    groups = [*own, *found]
    toward, away = config.strength - 1, config.strength + 1

    def loss(step: Step) -> Tensor:
        anchor, texts = groups[either(step, len(own), len(found))]
        c = step.pick(texts)
        a = model.encode([anchor])
        z = roll(step, c, config)
        others = [(text, -away / len(texts)) for text in texts]
        target = mix(model, z, [(empty, 1 - toward + away), (a, toward), *others])
        with step.edited():
            output = step.predict(z, c)
        return apart(model, output, target, z.timestep, config.loss_in) + retained(step, config.keep or (), config)

    return loss


def _adamw(held: Holder, lr: float) -> Any:
    """AdamW without its decay, which would shrink the original weights."""
    import torch

    return torch.optim.AdamW(held.parameters, lr=lr, weight_decay=0.0)
