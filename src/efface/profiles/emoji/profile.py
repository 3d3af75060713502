"""The profile of the emoji canvas."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from efface.concepts.concept import Concept
from efface.concepts.other_words import OtherWords
from efface.concepts.sample import evenly_spaced
from efface.profiles.base import Profile
from efface.profiles.emoji import sae_data
from efface.profiles.emoji.concepts import emoji_concepts
from efface.profiles.emoji.settings import GUIDANCE, SAE_TEXT_TRAINING, SAE_TRAINING, SETTINGS, STEPS
from efface.profiles.emoji.words import BENCHMARK, OBJECTS, STYLES, object_class

if TYPE_CHECKING:
    from efface.concepts.sample import Sample
    from efface.erasures import Erasure
    from efface.judges import Judge
    from efface.models.model import Model


class EmojiProfile(Profile):
    """Concepts, tuned settings, judges and sites of the emoji canvas."""

    def concepts(self, name: str, erased: Collection[str] = ()) -> tuple[Concept, ...]:
        """Captions as templates, a relative as the anchor; raises UsageError for what the canvas does not draw."""
        return emoji_concepts(name, erased)

    def remarks(self, name: str) -> tuple[str, ...]:
        """None: what the canvas draws has one kind each."""
        return ()

    def other_words(self, concept: Concept) -> OtherWords:
        """The held-out synonyms and descriptions of an object, which no caption and no eraser was given, and objects of other kinds to
        stand beside it; other words for a style as of any model."""
        found = super().other_words(concept)
        if concept.name not in {entry.name for entry in OBJECTS}:
            return found
        own = object_class(concept.name)
        others = [name for name in BENCHMARK if object_class(name).kind != own.kind]
        return found._replace(
            synonyms=own.heldout_synonyms,
            descriptions=own.heldout_descriptions,
            companions=tuple(evenly_spaced(others, len(found.companions))),
        )

    def settings(self, method: str, concept: Concept) -> dict[str, Any]:
        """Options tuned on the canvas: one setting for all objects, one for all styles."""
        settings = SETTINGS.get(method, {"object": {}})
        return dict(settings.get(concept.kind, settings["object"]))

    def judge(self, concept: Concept) -> Judge:
        """The judge of styles for a style, else that of objects."""
        from efface.judges import embedded_judge

        return embedded_judge("emoji", "style" if concept.name in STYLES else "object")

    def attack_budget(self) -> str:
        """The budget `canvas`, which two cores can afford."""
        return "canvas"

    def sae_sites(self) -> tuple[str, ...]:
        """The three cross-attentions through which text decides the picture."""
        return sae_data.SITES

    def sae_pattern(self) -> str:
        """Pattern over all cross-attentions."""
        return "*attn2"

    def sae_sampling(self) -> dict[str, Any]:
        """Steps and guidance of the standard solver."""
        return {"steps": STEPS, "guidance": GUIDANCE}

    def sae_training(self) -> dict[str, Any]:
        """Options with which the canvas's own autoencoders were trained."""
        return dict(SAE_TRAINING)

    def sae_text_training(self) -> dict[str, Any]:
        """Options for the text encoder's layers of 256 channels."""
        return dict(SAE_TEXT_TRAINING)

    def prompts(self) -> list[str]:
        """Captions of one object and of two in all styles, and the empty places."""
        return sae_data.all_captions()

    def labelled(self, seeds: int) -> tuple[list[Sample], dict[str, str]]:
        """Samples of the benchmark's objects in all styles."""
        return sae_data.labelled_samples(seeds)

    def retained_rate(self, model: Model, erasure: Erasure, concept: Concept) -> float | None:
        """IRA over every other concept of the kind in a few pictures; None for what is not of the benchmark."""
        from efface.profiles.emoji.score import retained_rate

        return retained_rate(model, erasure, concept)


PROFILE = EmojiProfile()
