"""Where an erasure comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from efface.concepts.concept import Concept, Kind
from efface.errors import EffaceError, UsageError
from efface.models.fingerprint import Fingerprint
from efface.models.footprint import Footprint

if TYPE_CHECKING:
    from efface.models.model import Model


@dataclass(frozen=True)
class Provenance:
    """Where an erasure comes from; all of it stands in the file's header."""

    method: str
    """Name of the eraser."""
    config: dict[str, Any]
    """Its full configuration."""
    concepts: tuple[Concept, ...]
    """What it erases."""
    base: Footprint | Fingerprint
    """What it touches of the model it was made for; of files of format 1, the fingerprint of that model."""
    keep: tuple[str, ...] = ()
    """Retained prompts."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What the method wants to report: seconds, epochs, norms."""
    plugin: str = ""
    """Name and version of the plugin that brought the method; empty for methods of efface itself."""

    @property
    def format(self) -> int:
        """The first version of the file format that holds it."""
        return 1 if isinstance(self.base, Fingerprint) else 2

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary with the versions of the libraries at work."""
        versions = {name: version(name) for name in ("efface", "torch", "diffusers", "transformers")}
        data = {
            "method": self.method,
            "config": self.config,
            "concepts": [asdict(concept) for concept in self.concepts],
            "base": self.base.to_json(),
            "keep": list(self.keep),
            "notes": self.notes,
            "versions": versions,
        }
        return data | ({"plugin": self.plugin} if self.plugin else {})

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Provenance:
        """The provenance that `to_json` wrote; fields of newer concepts are ignored."""
        method, config, keep, notes = data["method"], data["config"], data["keep"], data["notes"]
        plugin = data.get("plugin", "")
        plain = isinstance(method, str) and isinstance(config, dict) and isinstance(notes, dict) and are_texts(keep)
        if not plain or not isinstance(plugin, str) or not isinstance(data["concepts"], list) or not data["concepts"]:
            raise TypeError("method, config, concepts, keep, notes or plugin are not what they should be")
        concepts = tuple(_concept(entry) for entry in data["concepts"])
        base = (Fingerprint if "structure" in data["base"] else Footprint).from_json(data["base"])
        return cls(method, config, concepts, base, tuple(keep), notes, plugin)


def provenance_in(path: Path, header: dict[str, Any]) -> Provenance:
    """The provenance in a file's header; raises EffaceError where it is incomplete."""
    try:
        return Provenance.from_json(header)
    except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
        raise EffaceError(f"{path} has an incomplete header ({repr(error)[:200]}): make the erasure again.") from error


def _concept(entry: dict[str, Any]) -> Concept:
    """A concept from JSON, which knows lists where Concept has tuples; TypeError or ValueError for anything else."""
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items() if k in Concept.__dataclass_fields__}
    for name, value in fields.items():
        optional = name == "anchor" and value is None
        if not (isinstance(value, str) or optional or (isinstance(value, tuple) and are_texts(list(value)))):
            raise TypeError(f"the concept's {name} is no text")
    if fields.get("kind", "object") not in get_args(Kind):
        raise ValueError(f"the concept's kind is {fields['kind']!r}")
    return Concept(**fields)  # type: ignore[arg-type]


def are_texts(values: Any) -> bool:
    """Whether something is a list of texts."""
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def provenance(
    model: Model, method: str, config: dict[str, Any], concepts: Sequence[Concept], keep: Sequence[str], **notes: Any
) -> Provenance:
    """Where an erasure comes from, which is taken to touch what an edit of text touches."""
    from efface.models.unchanged import known_footprint

    return Provenance(method, config, tuple(concepts), known_footprint(model), tuple(keep), notes)


def summarise(
    kind: str,
    origin: Provenance,
    *,
    number: int,
    shapes: Mapping[str, tuple[int, ...]],
    sums: Mapping[str, str],
    size: int,
) -> dict[str, Any]:
    """What is said of an erasure.

    Args:
        kind: its kind.
        origin: where it comes from.
        number: version of its file format.
        shapes: of its tensors.
        sums: sha256 over the bytes of each.
        size: bytes of all of them.
    """
    tensors = {name: list(shape) for name, shape in shapes.items()}
    return (
        {"kind": kind, "format": number} | origin.to_json() | {"tensors": tensors, "sha256": dict(sums), "bytes": size}
    )
