"""A concept to erase: its name, its aliases, its anchor, and the prompts that name it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from efface.errors import UsageError

Kind = Literal["object", "style", "person", "explicit", "abstract"]


@dataclass(frozen=True)
class Concept:
    """A concept to erase; every text is plain, `templates` hold one "{}" each for the name."""

    name: str
    """What is erased, in the words of a prompt."""
    kind: Kind = "object"
    """Kind of concept, by which published hyper-parameters and the default anchor are chosen."""
    aliases: tuple[str, ...] = ()
    """Synonyms of the name; erased only where a method's option says so, never among the retained prompts."""
    anchor: str | None = None
    """Text that replaces the name; None is the method's own default for the kind ("" is the empty prompt)."""
    templates: tuple[str, ...] = ("{}",)
    """Prompts that name it: the bare name, unless the model knows only captions."""
    neutral: tuple[str, ...] = ()
    """Anchor prompts, one a template, where the anchor is not simply the template filled with another noun."""
    keep: tuple[str, ...] = ()
    """Prompts that this concept's preset proposes to retain."""

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise UsageError(f"the concept {self.name!r} is empty: name what is to be erased, for example 'church'.")
        for template in self.templates:
            if template.count("{}") != 1:
                raise UsageError(f"the template {template!r} must contain '{{}}' once, where the concept's name goes.")
        if self.neutral and len(self.neutral) != len(self.templates):
            raise UsageError(
                f"{self.name!r} has {len(self.templates)} templates but {len(self.neutral)} anchor prompts: give one each."
            )

    def prompts(self, name: str | None = None) -> list[str]:
        """The templates filled with the concept's name, or with another noun."""
        return [template.replace("{}", self.name if name is None else name) for template in self.templates]

    def anchors(self, default: str) -> list[str]:
        """Prompts that replace those of `prompts()`, one each; an empty anchor is the empty prompt."""
        if self.neutral:
            return list(self.neutral)
        anchor = default if self.anchor is None else self.anchor
        return self.prompts(anchor) if anchor.strip() else [anchor] * len(self.templates)

    def anchor_of(self, prompt: str) -> str:
        """The prompt that replaces one of the concept's own, or any other that names it."""
        default = default_anchor(self)
        anchors = dict(zip(self.prompts(), self.anchors(default), strict=True))
        return anchors.get(prompt, prompt.replace(self.name, self.anchor or default))


def default_anchor(concept: Concept) -> str:
    """ "art" for a style, a blank otherwise (as UCE's and RECE's authors have it)."""
    return "art" if concept.kind == "style" else " "


def own_words(concept: Concept) -> set[str]:
    """The words of a concept's name and aliases."""
    return {word for name in (concept.name, *concept.aliases) for word in name.lower().split()}
