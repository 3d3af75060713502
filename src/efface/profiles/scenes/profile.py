"""The profile of the scenes."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from efface.concepts.concept import Concept
from efface.profiles.emoji.profile import EmojiProfile
from efface.profiles.emoji.words import STYLES
from efface.profiles.scenes import settings
from efface.profiles.scenes.concepts import scene_concepts
from efface.profiles.scenes.words import empty_place, places

if TYPE_CHECKING:
    from efface.erasures import Erasure
    from efface.judges import Judge
    from efface.models.model import Model


class ScenesProfile(EmojiProfile):
    """What the scenes have in common with the emoji canvas, but for words, settings, judges and sites."""

    def concepts(self, name: str, erased: Collection[str] = ()) -> tuple[Concept, ...]:
        """Captions as templates, a relative as the anchor; raises UsageError for what the scenes do not draw."""
        return scene_concepts(name, erased)

    def settings(self, method: str, concept: Concept) -> dict[str, Any]:
        """Options tuned on the scenes: one setting for all objects, one for all styles."""
        found = settings.SETTINGS.get(method, {"object": {}})
        return dict(found.get(concept.kind, found["object"]))

    def judge(self, concept: Concept) -> Judge:
        """The judge of styles for a style, else that of objects."""
        from efface.judges import embedded_judge

        return embedded_judge("scenes", "style" if concept.name in STYLES else "object")

    def sae_sites(self) -> tuple[str, ...]:
        """Cross-attentions that autoencoders are trained on; none is embedded."""
        return settings.SITES

    def sae_sampling(self) -> dict[str, Any]:
        """Steps and guidance of the standard solver."""
        return {"steps": settings.STEPS, "guidance": settings.GUIDANCE}

    def prompts(self) -> list[str]:
        """Captions of all objects in all styles, and the empty places."""
        return [*super().prompts(), *(empty_place(place) for place in places())]

    def retained_rate(self, model: Model, erasure: Erasure, concept: Concept) -> float | None:
        """IRA over every other concept of the kind in a few pictures; None for what is not of the benchmark."""
        from efface.profiles.emoji.score import retained_rate

        return retained_rate(model, erasure, concept, judges="scenes")


PROFILE = ScenesProfile()
