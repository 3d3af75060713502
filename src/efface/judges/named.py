"""A judge that explains itself: verdicts are sums of a few named parts of another judge's features (UCBM, TMLR 2025)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from efface.errors import EffaceError, UsageError
from efface.heads.dictionary import codes_of
from efface.heads.fit import Accuracy
from efface.heads.head import SparseHead
from efface.heads.names import Name
from efface.heads.stored import (
    head_header,
    head_tensors,
    names_header,
    names_tensors,
    read_accuracy,
    read_head,
    read_names,
)
from efface.io.atomic import write_atomically
from efface.io.tensor_file import open_tensors, read_json, serialize
from efface.judges.base import Featured, Judge, Verdicts


class Contribution(NamedTuple):
    """What one part of a picture adds to the logit of a class."""

    part: int
    """Number of the part in the dictionary."""
    name: Name
    """What it stands for."""
    value: float
    """What it adds."""

    def __str__(self) -> str:
        return f"{self.value:+.2f} {self.name} (part {self.part})"


class Explanation(NamedTuple):
    """Why a class has the logit that it has for one picture."""

    label: str
    logit: float
    """The sum of the bias and the contributions."""
    bias: float
    contributions: tuple[Contribution, ...]
    """Those that are not 0, the largest in size first; at most as many as the head's k."""

    def __str__(self) -> str:
        summands = [*map(str, self.contributions), f"{self.bias:+.2f} bias"]
        return f"{self.label} {self.logit:+.2f} = {' '.join(summands)}"


@dataclass(frozen=True)
class NamedParts:
    """What a named judge adds to the judge whose features it reads: the file that `efface judge make` writes."""

    base: str
    """Short name of that judge, as `--judge` takes it."""
    base_name: str
    """Its full name, by which it is known again."""
    kind: str
    """Kind of the concepts that are told."""
    dictionary: Tensor
    """Parts of its features (parts 2·width)."""
    head: SparseHead
    names: tuple[Name, ...]
    """Name of each part."""
    accuracy: Accuracy
    """How often the head was right on pictures that it was not fitted on."""

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        header = {"base": self.base, "base_name": self.base_name, "kind": self.kind, "accuracy": self.accuracy}
        header |= {"head": head_header(self.head), "labels": names_header(self.names)}
        tensors = {"dictionary": self.dictionary} | names_tensors(self.names) | head_tensors(self.head, "head")
        write_atomically(path, serialize(tensors, {"named_judge": json.dumps(header)}))

    @classmethod
    def load(cls, path: Path) -> NamedParts:
        """Read a file written by `save`; raises EffaceError for any other."""
        file = open_tensors(path, "a named judge (`efface judge make`)")
        try:
            if not file.has_checksum:
                raise ValueError("it has lost its checksum")
            header = read_json(file.metadata["named_judge"])
            dictionary = file.tensors["dictionary"]
            if dictionary.ndim != 2 or dictionary.dtype != torch.float64 or (dictionary < 0).any():
                raise ValueError("its dictionary is none")
            names = read_names(header["labels"], file.tensors, len(dictionary))
            return cls(
                base=str(header["base"]),
                base_name=str(header["base_name"]),
                kind=str(header["kind"]),
                dictionary=dictionary,
                head=read_head(header["head"], file.tensors, "head", len(dictionary)),
                names=names,
                accuracy=read_accuracy(header["accuracy"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise EffaceError(
                f"{path} is damaged or holds no named judge ({error}): make it again (`efface judge make`)."
            ) from error


class NamedJudge:
    """Names the class of a picture, or what it finds in it, and can say why: each logit is a sum of at most k named parts.

    Whether a picture is intact is what the judge says whose features it reads.

    Args:
        parts: what `NamedParts.load` read.
        base: the judge whose features it reads.

    Raises:
        EffaceError: the parts were made with another judge.
        UsageError: the judge has no features.
    """

    def __init__(self, parts: NamedParts, base: Judge):
        if base.name != parts.base_name:
            raise EffaceError(
                f"the named judge was made on {parts.base_name!r}, and {parts.base} now opens {base.name!r}: make it again "
                "(`efface judge make`)."
            )
        self.base = base
        self.reader = with_features(base)
        self.parts = parts
        self.classes = parts.head.concepts
        self.detects = not parts.head.exclusive
        digest = hashlib.sha256()
        for tensor in (parts.dictionary, parts.head.units, parts.head.offset, parts.head.weight, parts.head.bias):
            digest.update(tensor.contiguous().numpy().tobytes())
        self.name = f"named-{digest.hexdigest()[:12]}-{base.name}"

    @classmethod
    def open(cls, path: str, opener: Callable[[str], Judge]) -> NamedJudge:
        """The judge of a file; `opener` opens the judge whose features it reads, by its short name."""
        parts = NamedParts.load(Path(path))
        return cls(parts, opener(parts.base))

    def __call__(self, images: Sequence[Image.Image]) -> Verdicts:
        """Judge pictures of any size."""
        logits = self.parts.head.logits(self._codes(images))
        scores = (logits.softmax(1) if self.parts.head.exclusive else logits.sigmoid()).float()
        return Verdicts(
            labels=tuple(self.classes[i] for i in logits.argmax(1).tolist()),
            scores=scores,
            intact=self.base(images).intact,
            counts=(logits > 0).long() if self.detects else None,
        )

    def explain(self, images: Sequence[Image.Image], concept: str | None = None) -> list[Explanation]:
        """Why each picture has its label, or has the logit that it has of a class that is named.

        Raises:
            UsageError: there is no such class.
        """
        if concept is not None and concept not in self.classes:
            raise UsageError(f"the judge has no class {concept!r}: expected one of {', '.join(self.classes[:8])}….")
        head = self.parts.head
        codes = self._codes(images)
        logits = head.logits(codes)
        found = []
        for row, own in zip(codes, logits, strict=True):
            label = int(own.argmax()) if concept is None else self.classes.index(concept)
            values = head.contributions(row[None], label)[0]
            order = values.abs().argsort(descending=True, stable=True).tolist()
            units = head.units.tolist()
            contributions = tuple(
                Contribution(part=units[j], name=self.parts.names[units[j]], value=float(values[j]))
                for j in order
                if values[j] != 0
            )
            found.append(Explanation(self.classes[label], float(own[label]), float(head.bias[label]), contributions))
        return found

    def _codes(self, images: Sequence[Image.Image]) -> Tensor:
        """How much each part is in each picture (batch parts)."""
        if not images:
            return torch.zeros(0, len(self.parts.dictionary), dtype=torch.float64)
        return codes_of(self.reader.features(images).cpu(), self.parts.dictionary)


def with_features(judge: Judge) -> Featured:
    """A judge as one with features; raises UsageError where it has none."""
    if not isinstance(judge, Featured):
        raise UsageError(
            f"the judge {judge.name} has no features to read: give an embedded model's own judge, or clip:FOLDER:CLASS,…."
        )
    return judge
