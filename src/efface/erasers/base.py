"""The contract between methods and what runs them; free of torch.

A method is a module (or any object) that fits `Eraser`, and `Extensible` where hardening can add to what it made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

from efface.errors import EffaceError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from efface.concepts.concept import Concept
    from efface.concepts.sample import Finding
    from efface.erasures import Erasure
    from efface.judges import Judge
    from efface.models.model import Model, Text

Rows = Literal["last", "subject", "all"]
"""Which token positions are edited or retained: the concept's last token, from there to the end, or all."""

Validation = Callable[["Erasure"], float]
"""Takes an erasure, returns the share of validation pictures that still show the concept."""


@dataclass(frozen=True)
class Retaining:
    """Options of a method that retains prompts."""

    proposes_blank: ClassVar[bool] = False
    """Whether the blank prompt is proposed too for what is explicit or abstract, as the papers' presets have it."""
    keep: tuple[str, ...] | None = None
    """Retained prompts, or on the command line a .txt file with one a line or a .csv file with a column `prompt`; by default what
    stands beside the concept is proposed."""

    @property
    def asks_judge(self) -> bool:
        """Whether a judge that is given looks at pictures by these options."""
        return False


@dataclass(frozen=True)
class FromPictures:
    """Options of a method that edits what a vision-language model sees, and learns it from pictures."""

    images: str | None = None
    """Folder of pictures of the concept; where it has sub-folders, those of the concept's name, and the others show other things."""
    others: str | None = None
    """Folder of pictures that do not show the concept, in sub-folders by what they show or not; by default the other sub-folders of
    `images`."""


@dataclass(frozen=True)
class RetainingRows(Retaining):
    """Options of a method that retains token positions of prompts."""

    proposes_blank: ClassVar[bool] = True

    keep_rows: Rows = "all"
    """Which positions of the retained prompts count."""
    pooled: bool = True
    """Whether a text map comes with one of the pooled text, where a model takes one vector a prompt beside the timestep (SDXL,
    SD 3, FLUX.1); no paper maps it."""


def check_weights(config: Any, *names: str) -> None:
    """Raise UsageError where one of these fields is negative or not finite."""
    for name in names:
        if not 0 <= getattr(config, name) < float("inf"):
            raise UsageError(f"{name} is {getattr(config, name)}; expected a finite number of at least 0.")


def check_ridges(config: Any, *names: str) -> None:
    """Raise UsageError where one of these fields is not above 0: without a ridge, what an edit does to states that none of its
    rows spans is up to rounding."""
    for name in names:
        if not 0 < getattr(config, name) < float("inf"):
            raise UsageError(f"{name} is {getattr(config, name)}; expected a finite number above 0.")


@dataclass(frozen=True)
class Listed(Retaining):
    """Options of a method that erases a list of concepts at once."""

    anchors: int = 3
    """How many of a concept's nearest neighbours that stay have their mean put in its place, where no anchor is named; 0 is
    the kind's default anchor. Explicit and abstract concepts always have that."""
    aliases: bool = True
    """Whether the concepts' aliases are erased with them."""
    never_touch: tuple[str, ...] = ()
    """Prompts that stay exactly as they are."""
    prior: Literal["auto", "always", "never"] = "auto"
    """Whether the text encoder's other words are retained too (`efface prior`): where they were read before and, for more
    than five concepts, after reading them now; always; or never."""
    weight: float | None = None
    """p, weight of what is retained, where 1 is the weight of what is erased; found by default."""
    goal: float = 0.9
    """How far the concepts are to go to what takes their place, 0 to 1, while the weight is searched for."""
    ridge: float = 1e-3
    """λ, weight of leaving states as they are, in units of the mean energy of a direction."""

    def __post_init__(self) -> None:
        if self.weight is not None and not 0 <= self.weight < float("inf"):
            raise UsageError(f"weight is {self.weight}; expected a finite number of at least 0.")
        if not 0 < self.goal <= 1:
            raise UsageError(f"goal is {self.goal}; expected a number above 0 and at most 1.")
        if not 0 < self.ridge < float("inf"):
            raise UsageError(f"ridge is {self.ridge}; expected a finite number above 0.")
        if self.anchors < 0:
            raise UsageError(f"anchors is {self.anchors}; expected at least 0.")


class FoundInput(NamedTuple):
    """An input that an attack found, as it was before the text encoder."""

    prompt: str
    """The prompt, of those that are attacked, in whose place it stands."""
    ids: tuple[int, ...]
    """Content tokens, without begin, end and padding."""
    embeddings: Tensor | None = None
    """Embeddings in place of the tokens' own (tokens width), where what was found is no word."""
    only_states: bool = False
    """Whether text states were found, which no input to the text encoder gives."""


class Evidence(NamedTuple):
    """Inputs that attacks found to bring an erased concept back."""

    concept: Concept
    """The concept that came back."""
    text: Text
    """Text states that were found, encoded by the unerased model (batch tokens width)."""
    prompts: tuple[str | None, ...]
    """Prompt of each state; None where an embedding was found."""
    anchors: tuple[str, ...]
    """Anchor prompt of each state."""
    images: int
    """Pictures of each prompt, for methods that draw."""
    rounds: int
    """Rounds of attacks in which the states were found."""
    found: tuple[FoundInput, ...] = ()
    """What the states were made of, for methods that encode it anew."""

    def words(self) -> list[str]:
        """Prompts that were found; raises EffaceError where there are only embeddings."""
        words = [prompt for prompt in self.prompts if prompt is not None]
        if not words:
            raise EffaceError(
                "the attack found embeddings; new statistics need prompts: harden with an attack on words."
            )
        return words


@runtime_checkable
class Eraser(Protocol):
    """A method of erasing concepts."""

    Config: type[Any]
    """A frozen dataclass with a docstring under each field; `Retaining` where prompts are retained."""
    PUBLISHED: Mapping[str, Any]
    """Fields of the Config that `--as-published` changes, with their values or functions of the concepts that give them;
    empty where the defaults are the paper's."""

    def erase(
        self, model: Model, concepts: Sequence[Concept], config: Any, judge: Judge | Validation | None = None
    ) -> Erasure:
        """An erasure of all the concepts; the model stays as it is.

        Args:
            model: the model to erase from; it stays as it is.
            concepts: one or more concepts, with prompts that the model understands.
            config: options, of the class `Config`.
            judge: judges pictures for methods that draw; others ignore it.
        """
        ...


@runtime_checkable
class ClosedForm(Eraser, Protocol):
    """A method that, without a judge, reads nothing of a model but its text encoders and the matrices that read text."""

    TEXT_ONLY: Literal[True]


@runtime_checkable
class Settling(Eraser, Protocol):
    """A method some of whose options follow from the concepts."""

    def settle(self, config: Any, concepts: Sequence[Concept]) -> Any:
        """The options with all of those filled in, as they can be said before anything is computed."""
        ...


@runtime_checkable
class Drawing(Eraser, Protocol):
    """A method that can say how many pictures it draws."""

    def pictures(self, concepts: Sequence[Concept], config: Any, *, judged: bool) -> int:
        """Pictures that erasing draws at most, with a judge or without; 0 for a method that draws none."""
        ...


@runtime_checkable
class Extensible(Eraser, Protocol):
    """A method that can add to an erasure it made, for hardening."""

    EXTENDS: str
    """Kind of the erasures that it can add to."""

    def extend(self, model: Model, erasure: Erasure, evidence: Evidence) -> Erasure:
        """The erasure with what attacks found added to it."""
        ...


@runtime_checkable
class Choosy(Extensible, Protocol):
    """One that cannot learn of everything that attacks find."""

    LEARNS: tuple[Finding, ...]
    """Of what it can."""


def published_config(eraser: Eraser, concepts: Sequence[Concept], named: Mapping[str, Any]) -> Any:
    """The Config with which a method's authors erase these concepts; nothing is retained but what `PUBLISHED` says.

    Args:
        eraser: the method.
        concepts: what is erased.
        named: fields that the user gave, which go before the authors'.
    """
    fields: dict[str, Any] = {"keep": ()} if issubclass(eraser.Config, Retaining) else {}
    fields |= {"pooled": False} if issubclass(eraser.Config, RetainingRows) else {}
    fields |= {name: value(concepts) if callable(value) else value for name, value in eraser.PUBLISHED.items()}
    return eraser.Config(**fields | dict(named))


def config_from(config: type[Any], stored: dict[str, Any]) -> Any:
    """A Config from an erasure's header, which may hold more than its fields, and lists where it has tuples."""
    fields = {name: stored[name] for name in config.__dataclass_fields__ if name in stored}
    return config(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})
