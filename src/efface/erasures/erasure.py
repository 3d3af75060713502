"""Erasure: what every kind of edit has in common: provenance, a file, and a life on a pipeline."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Literal, Self, get_args

from torch import Tensor

from efface.concepts.concept import Concept, Kind
from efface.erasures import file as files
from efface.errors import EffaceError, UsageError
from efface.io.tensor_file import tensor_sha256
from efface.models.fingerprint import Fingerprint
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
    base: Fingerprint
    """Of the model it was made for."""
    keep: tuple[str, ...] = ()
    """Retained prompts."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What the method wants to report: seconds, epochs, norms."""

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary with the versions of the libraries at work."""
        versions = {name: version(name) for name in ("efface", "torch", "diffusers", "transformers")}
        return {
            "method": self.method,
            "config": self.config,
            "concepts": [asdict(concept) for concept in self.concepts],
            "base": self.base.to_json(),
            "keep": list(self.keep),
            "notes": self.notes,
            "versions": versions,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Provenance:
        """The provenance that `to_json` wrote; fields of newer concepts are ignored."""
        method, config, keep, notes = data["method"], data["config"], data["keep"], data["notes"]
        plain = isinstance(method, str) and isinstance(config, dict) and isinstance(notes, dict) and are_texts(keep)
        if not plain or not isinstance(data["concepts"], list) or not data["concepts"]:
            raise TypeError("method, config, concepts, keep or notes are not what they should be")
        concepts = tuple(_concept(entry) for entry in data["concepts"])
        return cls(method, config, concepts, Fingerprint.from_json(data["base"]), tuple(keep), notes)


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


@dataclass(frozen=True, eq=False)
class Erasure(ABC):
    """A small reversible edit of a model.

    Attach it to a pipeline and take it off again, bit for bit; save it as one file; compose it with others.
    """

    provenance: Provenance

    kind: ClassVar[str]
    """Name of the kind in files."""
    acts_on: ClassVar[Literal["text", "weights", "activations"]]
    """Text states on their way into the denoiser (weights when folded), weights, or the outputs of modules."""

    def targets(self) -> list[str] | None:
        """Full names of the weights it edits; None means every text projection.

        Raises:
            EffaceError: no edit of weights does the same.
        """
        raise EffaceError(f"this erasure edits {self.acts_on}, which no weight does: attach it without folding.")

    def fold(self, name: str, weight: Tensor, scale: float) -> Tensor:
        """The edited weight of the tensor called `name`; raises EffaceError as `targets` does."""
        raise EffaceError(f"this erasure edits {self.acts_on}, which no weight does: {name} was left as it is.")

    def factors(self, name: str, weight: Tensor, scale: float) -> tuple[Tensor, Tensor] | None:
        """Thin (out n) and (in n) in float64 whose product `left rightᵀ` is the change of a weight; None where it is dense."""
        return None

    def hooks(self, model: Model, scale: float) -> list[Any]:
        """Register what does not live in weights on a model; returns handles that take it off."""
        return []

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What the file holds."""

    @classmethod
    @abstractmethod
    def check(cls, tensors: dict[str, Tensor], width: int) -> None:
        """Raise EffaceError when `tensors` are not of this kind, for text states of `width`."""

    def attach(self, pipeline: Any, *, scale: float = 1.0, fold: bool = False, force: bool = False) -> None:
        """Attach to a pipeline; later attachments act on the text first (W M_A M_B for A, then B).

        Args:
            pipeline: any diffusers pipeline with the model this was made for.
            scale: 0 leaves the model as it is, 1 is the erasure; values beyond extrapolate.
            fold: edit the weights instead of mapping the text states (kinds that map text only).
            force: attach to a model of the same shapes but other weights (a fine-tune), with a warning.

        Raises:
            EffaceError: already attached, another model, or a target that cannot be edited.
        """
        from efface.erasures.stack import attach

        attach(self, pipeline, scale=scale, fold=fold or self.acts_on == "weights", force=force)

    def remove(self, pipeline: Any) -> None:
        """Take it off again; every weight is bit-identical to before, whatever else stays attached."""
        from efface.erasures.stack import remove

        remove(self, pipeline)

    @contextmanager
    def attached(self, pipeline: Any, *, scale: float = 1.0, fold: bool = False, force: bool = False) -> Iterator[Any]:
        """`with erasure.attached(pipe): ...`, taken off at the end whatever happens."""
        self.attach(pipeline, scale=scale, fold=fold, force=force)
        try:
            yield pipeline
        finally:
            self.remove(pipeline)

    def save(self, path: str | Path) -> int:
        """Write one safetensors file, atomically; returns its size in bytes."""
        return files.write(Path(path), {"kind": self.kind} | self.provenance.to_json(), self.tensors())

    @staticmethod
    def load(path: str | Path) -> Erasure:
        """Read an erasure of any kind; raises EffaceError for anything damaged, foreign or newer."""
        from efface.erasures import KINDS

        header, tensors = files.read(Path(path))
        kind = KINDS.get(str(header.get("kind")))
        if kind is None:
            raise EffaceError(
                f"{path} holds an erasure of kind {str(header.get('kind'))[:40]!r}; this efface knows "
                f"{', '.join(KINDS)}: update efface."
            )
        try:
            provenance = Provenance.from_json(header)
        except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
            raise EffaceError(
                f"{path} has an incomplete header ({repr(error)[:200]}): make the erasure again."
            ) from error
        kind.check(tensors, provenance.base.width)
        return kind.restore(provenance, tensors)

    @staticmethod
    def from_pretrained(source: str | Path, *, revision: str | None = None, token: str | None = None) -> Erasure:
        """Read an erasure from a file, a folder that `save_pretrained` wrote, or a repository of the Hugging Face Hub.

        Raises:
            EffaceError: there is none, or it is damaged, foreign or newer.
        """
        from efface.io.hub import erasure_file

        return Erasure.load(erasure_file(Path(source).as_posix(), revision=revision, token=token))

    def save_pretrained(
        self, folder: str | Path, *, audit: str | Path | None = None, licence: str | None = None
    ) -> None:
        """Write a folder with the erasure, a model card, and the audit where its folder is given."""
        from efface.io.hub import save_folder

        with self._in_a_file() as file:
            save_folder(file, Path(folder), audit=None if audit is None else Path(audit), licence=licence)

    def push_to_hub(
        self,
        repository: str,
        *,
        audit: str | Path | None = None,
        licence: str | None = None,
        private: bool = False,
        token: str | None = None,
    ) -> str:
        """Write that folder to a repository of the Hugging Face Hub, made if need be; returns its address."""
        from efface.io.hub import push

        given = {
            "audit": None if audit is None else Path(audit),
            "licence": licence,
            "private": private,
            "token": token,
        }
        with self._in_a_file() as file:
            return push(file, repository, **given)

    @contextmanager
    def _in_a_file(self) -> Iterator[Path]:
        with TemporaryDirectory() as scratch:
            file = Path(scratch) / "erasure.safetensors"
            self.save(file)
            yield file

    @classmethod
    def restore(cls, provenance: Provenance, tensors: dict[str, Tensor]) -> Self:
        """The erasure that `tensors()` came from."""
        return cls(provenance, **tensors)

    def summary(self) -> dict[str, Any]:
        """What `efface show` prints."""
        size = sum(t.numel() * t.element_size() for t in self.tensors().values())
        shapes = {name: list(t.shape) for name, t in self.tensors().items()}
        sums = {name: tensor_sha256(t) for name, t in self.tensors().items()}
        return {"kind": self.kind} | self.provenance.to_json() | {"tensors": shapes, "sha256": sums, "bytes": size}


def fingerprint(model: Model) -> Fingerprint:
    """Fingerprint of a model's unedited weights, whatever is attached to it."""
    from efface.erasures.stack import stack_of

    return stack_of(model).fingerprint(model)
