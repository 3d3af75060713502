"""Profile of the model whose `efface.json` calls it demo-model."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from efface.concepts.concept import Concept
from efface.profiles.base import Profile

if TYPE_CHECKING:
    from efface.judges import Judge


class DemoProfile(Profile):
    """What is known of the demonstration model."""

    def concepts(self, name: str, erased: Collection[str] = ()) -> tuple[Concept, ...]:
        """Every concept becomes a cat."""
        return (Concept(name, anchor="cat", templates=("a {}",), keep=("a dog",)),)

    def settings(self, method: str, concept: Concept) -> dict[str, Any]:
        """A stronger swap."""
        return {"ridge": 0.05} if method == "swap" else {}

    def judge(self, concept: Concept) -> Judge | None:
        """The plugin's own judge."""
        from efface_demo_plugin.brightness import BrightnessJudge

        return BrightnessJudge()

    def attack_budget(self) -> str:
        """A small one."""
        return "quick"


PROFILE = DemoProfile()
