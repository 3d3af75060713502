"""unsee: the denoiser no longer completes what begins to look like a concept, whatever the text says (efface's own method, after no
paper: attacks look for text, so the erasure must not hang on it)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from efface.concepts.concept import Concept
from efface.erasers.base import Evidence, Retaining, check_ridges, check_weights
from efface.errors import UsageError
from efface.training.config import Training, Where, Work

if TYPE_CHECKING:
    from torch import Tensor

    from efface.erasures import Erasure
    from efface.models.model import Model, Text
    from efface.training.holders import Dense, LowRank
    from efface.training.images import ConceptImages, NoisedBatch
    from efface.training.loop import Step
    from efface.training.search import Remembered
    from efface.training.shown import Shown

EXTENDS = "delta"


@dataclass(frozen=True)
class Config(Training, Retaining):
    """Options of unsee."""

    where: Where = "all"
    """Trained weights."""
    rank: int | None = 16
    """Rank of the factors that are trained (a network of its own forgets more than it should)."""
    iterations: int = 600
    """Training steps."""
    lr: float = 2e-4
    """Learning rate of Adam, which goes to 0 over the second half of the training."""
    forget: float = 0.1
    """Weight of the term on pictures of the concept."""
    retain: float = 2.0
    """Weight of the term on pictures of retained prompts."""
    batch: int = 6
    """Pictures of retained prompts in a step; two thirds as many of the concept, with a prompt and with none, and half as many of
    its anchor."""
    images: int = 100
    """Pictures of the concept, and as many of its anchor."""
    retained_images: int = 200
    """Pictures of retained prompts."""
    draw_steps: int = 50
    """Sampler steps of all pictures."""
    guidance: float = 7.5
    """Guidance scale of these pictures, and g of the output that is trained: take the one at which the model will be used."""
    strength: float = 0.8
    """Share of the steps by which a picture of the concept is drawn again as its anchor, so that what stands around it stays."""
    words: int = 2
    """New words that search, while it trains, for what still draws the concept; 0 leaves them out."""
    word_lr: float = 0.01
    """Size of a word's step along the signs of its gradients' running mean."""
    word_steps: int = 2
    """Steps of the words in each training step."""
    fresh: int = 60
    """Training steps after which the next of the words begins anew."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weights(self, "forget")
        if not 0 < self.strength <= 1:
            raise UsageError(f"strength is {self.strength}; expected above 0, at most 1.")
        check_ridges(self, "word_lr")
        if min(self.images, self.retained_images, self.draw_steps, self.fresh, self.word_steps) < 1:
            raise UsageError(
                f"images, retained_images, draw_steps, fresh and word_steps are {self.images}, {self.retained_images}, "
                f"{self.draw_steps}, {self.fresh} and {self.word_steps}; expected at least 1 of each."
            )
        if self.batch < 2 or self.words < 0:
            raise UsageError(f"batch and words are {self.batch} and {self.words}; expected at least 2, and at least 0.")
        if self.words > self.shown:
            raise UsageError(
                f"words is {self.words}, and a step of a batch of {self.batch} shows {self.shown} pictures of the concept; expected "
                "no more words than these."
            )

    @property
    def shown(self) -> int:
        """Pictures of the concept in a step."""
        return 2 * max(1, self.batch // 3)

    def work(self, concepts: Sequence[Concept]) -> Work:
        """Pictures of the anchor and of retained prompts twice each, those of the concept with a prompt and with none, and the words'
        own steps."""
        twice = self.batch // 2 + (self.batch if self.keep and self.retain else 0)
        together = twice + 2 * self.shown
        search = self.word_steps * self.shown if self.words else 0
        return self.each_step(forward=twice, back=together + search, together=together)


PUBLISHED: Mapping[str, Any] = {}
"""There is nothing published."""


def pictures(concepts: Sequence[Concept], config: Config, *, judged: bool) -> int:
    """Pictures of concepts and anchors, and of retained prompts, on which it trains."""
    return 2 * config.images + (config.retained_images if config.keep and config.retain else 0)


def erase(model: Model, concepts: Sequence[Concept], config: Config, judge: object = None) -> Erasure:
    """L = |ε(z_a, c) − ε₀(z_a, a)|² + λ w (|ε(z_c, ∅) − ε_a|² + |ε̂(z_c, p) − ε_b|²/g) + μ |ε(z_r, r) − ε₀(z_r, r)|², with

        z_a, z_r  noised pictures x_a of the anchor's prompt a and of retained prompts r (∅ in one of six),
        z_c       noised mixtures κ x_c + (1 − κ) x_a, ½ ≤ κ ≤ 1, of pictures of c and what image-to-image makes of them under a,
        p         in half of a batch c with a new word in the concept's place, else c,
        ε̂         ε(∅) + g (ε(p) − ε(∅)), what is drawn by guidance g, which multiplies whatever p and ∅ do not agree in,
        ε_a, ε_b  the noise that leaves x_a, and x_a + ρ (x_a − x_c), of z_c (ρ = 0 where g is 1),
        w         min(1, σ²/α²) / |x_c − x_a|², so that it counts how much of the way from x_a to x_c is seen, and less where all
                  is noise.

    The words go down w |ε(z_c, p) − ε_c|², with ε_c the noise that leaves x_c: signed steps of each in a training step, on its
    share of the batch.

    Raises:
        EffaceError: the pipeline's text encoder takes whole prompts only, so that no new word can be put into one.
    """
    from efface.training.result import trained_erasure
    from efface.training.search import require_words

    if config.words:
        require_words(model, "unsee")
    lesson, held = Lesson.of(model, concepts, config), _weights(model, config)
    return trained_erasure(model, "unsee", concepts, config, held, lesson.loss, schedule=lesson.rate, kept=lesson.kept)


def extend(model: Model, erasure: Erasure, evidence: Evidence) -> Erasure:
    """Trained on from where it ended, with other noise; in half of the steps what attacks found stands where the words of its own
    search stood, which begin anew."""
    from efface.erasers.base import config_from
    from efface.erasers.further import other_latents, take_up, texts_of, trained_on
    from efface.erasures.delta import weight_delta

    origin = erasure.provenance
    config = config_from(Config, origin.config)
    held = _weights(model, config)
    take_up(held, erasure)
    config = other_latents(config, erasure, evidence)
    lesson = Lesson.of(model, origin.concepts, config, texts_of(evidence))
    further = trained_on(model, erasure, evidence, held, lesson.loss, config, schedule=lesson.rate, kept=lesson.kept)
    return weight_delta(further.provenance, further.deltas)


def _weights(model: Model, config: Config) -> Dense | LowRank:
    """What is trained."""
    from efface.training.groups import weights_of
    from efface.training.holders import holder

    return holder(weights_of(model, config.where), config.rank, config.seed)


def _begun(model: Model, words: int) -> dict[str, Tensor]:
    """Room for so many words, and for the means of their gradients."""
    import torch

    return {name: torch.zeros_like(model.token_table()[:words], dtype=torch.float32) for name in ("words", "mean")}


@dataclass(frozen=True)
class Lesson:
    """What is trained on."""

    model: Model
    config: Config
    pairs: list[tuple[str, str, str]]
    """Anchor prompt, prompt and name of every concept, of which pictures are drawn in turn."""
    of_concept: ConceptImages
    of_anchor: ConceptImages
    of_retained: ConceptImages | None
    found: Sequence[Text]
    """What attacks found (one prompt each)."""
    kept: Remembered
    """The words that search, and the running means of their gradients (words width)."""

    @classmethod
    def of(cls, model: Model, concepts: Sequence[Concept], config: Config, found: Sequence[Text] = ()) -> Lesson:
        """Draw the pictures, with the model as it is."""
        import torch

        from efface.training.images import draw_concept_images, drawn_over, pairs_of
        from efface.training.search import Remembered

        names = [concept.name for concept in concepts for _ in concept.prompts()]
        pairs = [(*pair, name) for pair, name in zip(pairs_of(concepts, config.images), names, strict=True)]
        settings: Any = {"steps": config.draw_steps, "guidance": config.guidance, "side": config.side}
        anchors, prompts, _ = zip(*pairs, strict=True)
        retained = list(config.keep or ()) if config.retain else []
        order = torch.randperm(len(retained), generator=torch.Generator().manual_seed(config.seed)).tolist()
        of_concept = draw_concept_images(model, prompts, config.images, settings)
        skipped = min(config.draw_steps - 1, round((1 - config.strength) * config.draw_steps))
        return cls(
            model,
            config,
            pairs,
            of_concept,
            drawn_over(model, of_concept, anchors, skipped, settings),
            draw_concept_images(model, [retained[i] for i in order], config.retained_images, settings)
            if retained
            else None,
            found,
            Remembered(_begun(model, config.words) if config.words else {}),
        )

    def loss(self, step: Step) -> Tensor:
        """L of a step."""
        from efface.erasers.further import either

        number = either(step, 1, len(self.found)) if self.found else 0
        found = self.found[number - 1] if number else None
        value = self._renamed(step) + self.config.forget * self._unseen(step, found)
        return value if self.of_retained is None else value + self.config.retain * self._retained(step)

    def rate(self, number: int) -> float:
        """By what the learning rate is multiplied in a step."""
        return min(1.0, 2 * (1 - number / self.config.iterations))

    def _renamed(self, step: Step) -> Tensor:
        """The concept's prompt on pictures of its anchor."""
        x = self.of_anchor.batch(self.config.batch // 2, self.config.seed, step.number, 0)
        a, c, _ = zip(*(self._asked(member) for member in x.members), strict=True)
        return self._as_under(step, x, a, c)

    def _retained(self, step: Step) -> Tensor:
        """Retained prompts on their own pictures."""
        assert self.of_retained is not None
        x = self.of_retained.batch(self.config.batch, self.config.seed, step.number, 1)
        r = [self.of_retained.prompts[member] if step.integer(6) else "" for member in x.members]
        return self._as_under(step, x, r, r)

    def _as_under(self, step: Step, x: NoisedBatch, before: Sequence[str], now: Sequence[str]) -> Tensor:
        """How far the edited model under some prompts is from the frozen one under others."""
        import torch

        from efface.training.images import noised
        from efface.training.targets import apart

        z, _ = noised(self.model, x)
        with torch.no_grad():
            target = step.predict(z, self.model.encode(before))
        with step.edited():
            return apart(self.model, step.predict(z, self.model.encode(now)), target, z.timestep, self.config.loss_in)

    def _unseen(self, step: Step, found: Text | None) -> Tensor:
        """Pictures of the concept under its prompt and none: in half of a batch under what was found, or a word in its place."""
        import torch

        from efface.families.text import concatenate
        from efface.training.shown import Shown

        x = self.of_concept.batch(self.config.shown, self.config.seed, step.number, 2)
        shown = Shown.of(self.model, x, self.of_anchor.latents[x.members], step.random)
        half = len(x.members) // 2 if self.config.words or found is not None else 0
        texts = [self.model.encode([self._asked(member)[1] for member in x.members[half:]])]
        if self.config.words:
            self._renew(step)
        if found is not None:
            texts.insert(0, found.repeat(half))
        elif half:
            self._search(step, shown, x.members)
            with torch.no_grad():
                texts.insert(0, self._said(step, x.members[:half], self.kept["words"]))
        with step.edited():
            return shown.unseen(step, concatenate(texts), self.config.guidance)

    def _search(self, step: Step, shown: Shown, members: Sequence[int]) -> None:
        """Steps of the words towards what is shown."""
        from efface.training.search import signed_step

        now, words = [value.detach() for value in step.held.parameters], self.kept["words"]

        def attack(v: Tensor, _: int) -> Tensor:
            with step.held.active(now):
                return shown.apart(step, self._said(step, members, v), shown.x_c)

        for _ in range(self.config.word_steps):
            words.copy_(signed_step(words, attack, lr=self.config.word_lr, mean=self.kept["mean"]))

    def _asked(self, member: int) -> tuple[str, str, str]:
        """Anchor prompt, prompt and name of a picture."""
        return self.pairs[member % len(self.pairs)]

    def _renew(self, step: Step) -> None:
        """Begin all words at the first step, and each in its turn anew: at one of all tokens, or at the middle of them."""
        table, words = self.model.token_table().float(), self.kept["words"]
        turn, since = divmod(step.number, self.config.fresh)
        first, rounds = step.number == 0, turn // len(words)
        for number in range(len(words)):
            if first or (since == 0 and turn % len(words) == number):
                token = table[step.integer(len(table))]
                words[number] = token if first or (rounds + number) % 2 == 0 else table.mean(0)
                self.kept["mean"][number] = 0

    def _said(self, step: Step, members: Sequence[int], words: Tensor) -> Text:
        """The prompts of pictures with new words in the concept's place, one each: all in turn, over steps too."""
        from efface.training.search import around, with_words

        asked = map(self._asked, members)
        rows = [around(self.model, prompt, name) for _, prompt, name in asked]
        first = step.number * (self.config.shown // 2)
        own = words[[(first + row) % len(words) for row in range(len(rows))]]
        return with_words(self.model, self.model.token_table().float(), rows, own[:, None])
