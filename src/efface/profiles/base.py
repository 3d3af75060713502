"""Profiles: what efface knows of a model beyond its weights, such as concepts, tuned settings, judges and sites."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.concepts.concept import Concept
from efface.concepts.other_words import OtherWords, other_words
from efface.concepts.reading import read_concept
from efface.errors import UsageError
from efface.registry import Registry

if TYPE_CHECKING:
    from efface.concepts.sample import Sample
    from efface.erasures import Erasure
    from efface.judges import Judge
    from efface.models.model import Model


class Profile:
    """The default profile, of any model: published settings, no judge, no concepts of its own; subclasses override it."""

    def concepts(self, name: str, erased: Collection[str] = ()) -> tuple[Concept, ...]:
        """The concepts that a word means, in prompts that the model understands.

        Args:
            name: a concept, or a preset of several.
            erased: concepts erased beside it, or before; neither retained nor used as anchors.
        """
        return read_concept(name).concepts

    def remarks(self, name: str) -> tuple[str, ...]:
        """What was inferred of a concept by its name, or may have been meant: a sentence each."""
        return read_concept(name).remarks

    def other_words(self, concept: Concept) -> OtherWords:
        """Words that mean a concept and that no erasure was told: synonyms, descriptions, names in other languages, and what may stand
        beside it (default: WordNet's, and the names of emoji)."""
        return other_words(concept)

    def settings(self, method: str, concept: Concept) -> dict[str, Any]:
        """Fields of a method's Config that were tuned on this model."""
        return {}

    def judge(self, concept: Concept) -> Judge | None:
        """The model's own judge of a concept's kind."""
        return None

    def attack_budget(self) -> str:
        """Name of the default budget of attacks."""
        return "published"

    def sae_sites(self) -> tuple[str, ...]:
        """Sites that autoencoders are trained on (default: SAeUron's two blocks)."""
        return ("unet.up_blocks.1.attentions.1", "unet.up_blocks.1.attentions.2")

    def sae_pattern(self) -> str:
        """fnmatch pattern of the modules that are listed as sites."""
        return "*attentions.?"

    def sae_sampling(self) -> dict[str, Any]:
        """Steps and guidance of pictures drawn for autoencoders (default: SAeUron's 50 and 9)."""
        return {"steps": 50, "guidance": 9.0}

    def sae_training(self) -> dict[str, Any]:
        """Fields of the autoencoders' SAETrainConfig that were tuned on this model."""
        return {}

    def sae_text_training(self) -> dict[str, Any]:
        """The same of autoencoders on layers of its text encoders."""
        return {}

    def prompts(self) -> list[str]:
        """Prompts that show all that the model knows; raises UsageError where nobody knows them."""
        raise UsageError("the model has no prompts of its own: give a .txt file with one prompt a line (--prompts).")

    def labelled(self, seeds: int) -> tuple[list[Sample], dict[str, str]]:
        """Pictures of its concepts, `seeds` each, and the kind of every concept; raises UsageError as `prompts`."""
        raise UsageError(
            "the model has no concepts of its own: give a JSON file of kinds, concepts and prompts (--concepts)."
        )

    def retained_rate(self, model: Model, erasure: Erasure, concept: Concept) -> float | None:
        """Share of pictures of the other concepts of its kind that show theirs under an erasure (IRA); None where no judge
        knows them."""
        return None


def profile_of(pipeline: Any) -> Profile:
    """The profile of a pipeline's model, known by its metadata or by its weights; the default one for all others."""
    from efface.models.metadata import metadata_of

    metadata = metadata_of(pipeline)
    return Profile() if metadata is None else profile_named(metadata.name)


def profile_named(name: str) -> Profile:
    """The profile that a model's metadata name; the default one where there is none of that name."""
    return PROFILES.load(name) if name in PROFILES else Profile()


PROFILES: Registry[Profile] = Registry(
    "profile",
    "efface.profiles",
    {
        path.parent.name: f"efface.profiles.{path.parent.name}.profile:PROFILE"
        for path in sorted(Path(__file__).parent.glob("*/profile.py"))
    },
    contract=Profile,
)
"""Profiles by the name that a model's metadata give: a folder each of this package, and those of plugins."""
