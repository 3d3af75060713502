"""Names of an autoencoder's latents, and a sparse head for each kind of concept: the file that `efface sae name` writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from efface.errors import EffaceError, UsageError
from efface.heads.config import HeadConfig
from efface.heads.fit import Accuracy, fit_head, held_out, measure_accuracy, require_told_apart
from efface.heads.head import MARGIN, SparseHead
from efface.heads.labels import of_kind
from efface.heads.names import Kind, Name, names_of
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
from efface.sae.lookup import sae_folder

FILE = "names.safetensors"
"""Its name in the folder of an autoencoder."""


@dataclass(frozen=True)
class LatentNames:
    """What the latents of one autoencoder stand for."""

    sha256: str
    """Hash of the autoencoder (`efface.sae.files.sae_hash`); of another one these names say nothing."""
    heads: Mapping[str, SparseHead]
    """Kind -> the head that tells its concepts."""
    names: tuple[Name, ...]
    """Name of each latent."""
    accuracy: Mapping[str, Accuracy]
    """Kind -> how often its head is right on pictures that it was not fitted on."""
    pictures: int
    """Pictures that the heads were fitted on, and those that were held out."""

    def kind_of(self, concept: str) -> str:
        """The kind whose head tells a concept; raises UsageError where none does."""
        for kind, head in self.heads.items():
            if concept in head.concepts:
                return kind
        known = [name for head in self.heads.values() for name in head.concepts]
        raise UsageError(
            f"no latent has a name for {concept!r}: expected one of {', '.join(known[:8])}…, or pictures of it (`efface sae name`)."
        )

    def choose(self, concept: str, margin: float = MARGIN) -> list[int]:
        """The fewest latents that hold this share of a concept's margin, the strongest first; raises as `SparseHead.choose`."""
        return self.heads[self.kind_of(concept)].choose(concept, margin)

    def chosen(self, concept: str) -> list[int]:
        """The same at the usual share; none where no latent speaks for the concept."""
        head = self.heads[self.kind_of(concept)]
        return head.choose(concept) if bool((head.scores(concept) > 0).any()) else []

    def accuracy_on(self, concept: str) -> Accuracy:
        """How often the head that tells a concept is right; raises UsageError where none does."""
        return self.accuracy[self.kind_of(concept)]

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        header = {
            "sha256": self.sha256,
            "pictures": self.pictures,
            "labels": names_header(self.names),
            "kinds": {kind: head_header(head) | {"accuracy": self.accuracy[kind]} for kind, head in self.heads.items()},
        }
        tensors = names_tensors(self.names)
        for number, head in enumerate(self.heads.values()):
            tensors |= head_tensors(head, str(number))
        write_atomically(path, serialize(tensors, {"names": json.dumps(header)}))

    @classmethod
    def load(cls, path: Path) -> LatentNames:
        """Read a file written by `save`; raises EffaceError for any other."""
        file = open_tensors(path, "the names of latents")
        try:
            if not file.has_checksum:
                raise ValueError("it has lost its checksum")
            header = read_json(file.metadata["names"])
            kinds: dict[str, dict[str, Any]] = header["kinds"]
            latents = len(file.tensors["labels"])
            return cls(
                sha256=str(header["sha256"]),
                heads={
                    kind: read_head(told, file.tensors, str(number), latents)
                    for number, (kind, told) in enumerate(kinds.items())
                },
                names=read_names(header["labels"], file.tensors, latents),
                accuracy={kind: read_accuracy(told["accuracy"]) for kind, told in kinds.items()},
                pictures=int(header["pictures"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EffaceError(
                f"{path} is damaged or holds no names of latents ({error}): make it again (`efface sae name`)."
            ) from error

    def summary(self) -> dict[str, Any]:
        """Figures of it, for people and machines."""
        return {
            "pictures": self.pictures,
            "latents": len(self.names),
            "named": sum(name.named for name in self.names),
            "kinds": {
                kind: {
                    "concepts": len(head.concepts),
                    "read": len(head.units),
                    "k": head.k,
                    "accuracy": self.accuracy[kind].share,
                    "held_out": self.accuracy[kind].rows,
                    "active": self.accuracy[kind].active,
                    "chosen": {concept: self.chosen(concept) for concept in head.concepts},
                }
                for kind, head in self.heads.items()
            },
        }


def name_latents(
    activity: Tensor, labels: Tensor, kinds: Mapping[str, str], config: HeadConfig, *, sha256: str
) -> LatentNames:
    """Fit a head for every kind, and name all latents.

    Args:
        activity: mean activation of every latent on each picture (pictures latents).
        labels: which concepts a picture shows (pictures concepts).
        kinds: kind of each concept, by its name, in the order of the columns of `labels`.
        config: options of the heads.
        sha256: hash of the autoencoder.

    Raises:
        UsageError: a kind has only one concept, or there is no picture of one.
    """
    heads, told, shares = {}, [], {}
    for kind in dict.fromkeys(kinds.values()):
        concepts, columns = of_kind(kinds, kind)
        own = labels[:, columns].bool()
        require_told_apart(own, concepts)
        out = held_out(own)
        heads[kind] = fit_head(activity[~out], own[~out], concepts, config)
        shares[kind] = measure_accuracy(heads[kind], activity[out], own[out])
        told.append(Kind(own, heads[kind]))
    names = tuple(names_of(activity, told))
    return LatentNames(sha256=sha256, heads=heads, names=names, accuracy=shares, pictures=len(activity))


def names_folder(names: str | Path | None, source: str, site: str) -> Path:
    """The folder of a site's names: in the folder `names` where it is given, else that of its autoencoder in `source`."""
    if names is None:
        return sae_folder(source, site)
    return Path(names) / site if (Path(names) / site).is_dir() else Path(names)


def load_names(folder: Path, sha256: str) -> LatentNames | None:
    """The names in an autoencoder's folder; None where there are none.

    Raises:
        EffaceError: the file is damaged, or speaks of another autoencoder.
    """
    path = folder / FILE
    if not path.exists():
        return None
    found = LatentNames.load(path)
    if found.sha256 != sha256:
        raise EffaceError(
            f"{path} names the latents of another autoencoder ({found.sha256[:12]}…, not {sha256[:12]}…): make it again "
            "(`efface sae name`)."
        )
    return found
