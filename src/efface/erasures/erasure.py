"""Erasure: what every kind of edit has in common: provenance, a file, and a life on a pipeline."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from efface.erasures import file as files
from efface.erasures import life
from efface.erasures.interface import ModelEdit
from efface.erasures.provenance import provenance_in, summarise
from efface.erasures.share import shared_files
from efface.errors import EffaceError
from efface.io.digest import sha256_of_tensor
from efface.io.hub import ERASURE, erasure_file, require_name, upload, write_files
from efface.registry import Registry

KINDS: Registry[type[Erasure]] = Registry(
    "kind", "efface.erasures",
    {
        "textmap": "efface.erasures.textmap:TextMap",
        "delta": "efface.erasures.delta:WeightDelta",
        "activation": "efface.erasures.activation:ActivationEdit",
        "text-edit": "efface.erasures.text_edit:TextEdit",
        "image-edit": "efface.erasures.image_edit:ImageEdit",
        "gated-map": "efface.erasures.gated:GatedMap",
        "gated-delta": "efface.erasures.gated_delta:GatedDelta",
        "keyed-delta": "efface.erasures.keyed:KeyedDelta",
        "key": "efface.erasures.keyed:TextKey",
        "negative": "efface.erasures.negative:NegativeText",
        "adapter": "efface.erasures.adapter:Adapter",
        "guard": "efface.erasures.guard:Guard",
    },
    contract=ModelEdit,
)  # fmt: skip
"""Name of the kind in a file's header -> class."""
ALLOWED = "EFFACE_PLUGINS"
"""Environment variable that names the plugins, separated by commas, whose kinds may be imported to read a file."""
_IMPORTED: dict[str, type[Erasure]] = {}
"""Kinds whose classes were made, by whoever imported them."""


@dataclass(frozen=True, eq=False)
class Erasure(ModelEdit):
    """A small reversible edit of a model.

    Attach it to a pipeline and take it off again, bit for bit; save it as one file; compose it with others.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "kind" in cls.__dict__:
            _IMPORTED[cls.kind] = cls

    def attach(self, pipeline: Any, *, scale: float = 1.0, fold: bool = False, force: bool = False) -> None:
        """Attach to a pipeline; later attachments act on the text first (W M_A M_B for A, then B).

        An erasure is what its content is: the same file attached twice is counted, and acts once. It stays with the
        pipeline object through copies, replaced components and threads (docs/guarantees.md).

        Args:
            pipeline: any diffusers pipeline with the model this was made for.
            scale: 0 leaves the model as it is, 1 is the erasure; values beyond extrapolate.
            fold: edit the weights instead of mapping the text states (kinds that map text only).
            force: attach to a model of the same shapes but other weights (a fine-tune), with a warning.

        Raises:
            UsageError: the scale is negative or not finite.
            EffaceError: attached already with another scale, another model, or a target that cannot be edited.
        """
        self._warn_of_loss(fold)
        life.attach(self, pipeline, scale=scale, fold=fold or self.acts_on == "weights", force=force)

    def remove(self, pipeline: Any, *, subtract: bool | None = None) -> None:
        """Take it off again; every weight is bit-identical to before, whatever else stays attached.

        Weights that others changed since it was folded into them (a fused LoRA) have its own change subtracted, with a
        warning; the original is never written over later work.

        Args:
            pipeline: any pipeline that it is attached to, itself or by a view.
            subtract: for weights of which it cannot be told whether they still hold the erasure: True subtracts its
                change, False leaves them as they are.

        Raises:
            EffaceError: it is not attached, or such weights were found and nothing was said of them.
        """
        life.remove(self, pipeline, subtract=subtract)

    @contextmanager
    def attached(self, pipeline: Any, *, scale: float = 1.0, fold: bool = False, force: bool = False) -> Iterator[Any]:
        """`with erasure.attached(pipe): ...`, taken off at the end whatever happens.

        Raises:
            EffaceError: as `attach`, or another thread or task is in such a block of another erasure.
        """
        self._warn_of_loss(fold)
        fold = fold or self.acts_on == "weights"
        with life.attached(self, pipeline, scale=scale, fold=fold, force=force):
            yield pipeline

    def foldable(self) -> Erasure:
        """What weights can hold of it: itself, or the nearest edit that they can, with a warning."""
        return self

    def _warn_of_loss(self, fold: bool) -> None:
        if fold and self.lost_in_weights:
            warnings.warn(self.lost_in_weights, stacklevel=4)

    @property
    def format(self) -> int:
        """The first version of the file format that holds it: files of format 1 are written as such again."""
        return 2 if self.requires else self.provenance.format

    def save(self, path: str | Path) -> int:
        """Write one safetensors file, atomically; returns its size in bytes."""
        header = {"kind": self.kind, "format": self.format} | self.provenance.to_json()
        return files.write(
            Path(path), header | ({"requires": list(self.requires)} if self.requires else {}), self.tensors()
        )

    @staticmethod
    def load(path: str | Path) -> Erasure:
        """Read an erasure of any kind; raises EffaceError for anything damaged, foreign or newer."""
        header, tensors = files.read(Path(path))
        kind = _kind(Path(path), header)
        provenance = provenance_in(Path(path), header)
        kind.check(tensors, provenance.base.width)
        return kind.restore(provenance, tensors)

    @staticmethod
    def from_pretrained(source: str | Path, *, revision: str | None = None, token: str | None = None) -> Erasure:
        """Read an erasure from a file, a folder that `save_pretrained` wrote, or a repository of the Hugging Face Hub.

        Raises:
            EffaceError: there is none, or it is damaged, foreign or newer.
        """
        return Erasure.load(erasure_file(Path(source).as_posix(), revision=revision, token=token))

    def save_pretrained(
        self, folder: str | Path, *, audit: str | Path | None = None, licence: str | None = None
    ) -> None:
        """Write a folder with the erasure, a model card, and the audit where its folder is given."""
        write_files(self._shared(audit, licence), Path(folder))

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
        require_name(repository)
        return upload(self._shared(audit, licence), repository, named=ERASURE, private=private, token=token)

    def _shared(self, audit: str | Path | None, licence: str | None) -> dict[Path, bytes]:
        """The files of a folder to share."""
        with TemporaryDirectory() as scratch:
            file = Path(scratch) / ERASURE
            self.save(file)
            return shared_files(file, self.summary(), None if audit is None else Path(audit), licence)

    def summary(self) -> dict[str, Any]:
        """What `efface show` prints."""
        tensors = self.tensors()
        return summarise(
            self.kind,
            self.provenance,
            number=self.format,
            shapes={name: tuple(t.shape) for name, t in tensors.items()},
            sums={name: sha256_of_tensor(t) for name, t in tensors.items()},
            size=sum(t.numel() * t.element_size() for t in tensors.values()),
        )


def _kind(path: Path, header: dict[str, Any]) -> type[Erasure]:
    """The class of a file's kind; a file never has a plugin imported by itself.

    Raises:
        EffaceError: nobody knows the kind, or a plugin does that was not imported.
    """
    name, plugin = str(header.get("kind"))[:40], str(header.get("plugin", ""))[:80]
    if name in KINDS.builtin:
        return KINDS.load_builtin(name)
    if name in _IMPORTED:
        return _IMPORTED[name]
    start = f"{path} holds an erasure of kind {name!r} (file format {header['format']})"
    if name not in KINDS:
        told = f" ({plugin})" if plugin else ""
        known = ", ".join(KINDS.builtin)
        raise EffaceError(
            f"{start}; this efface knows {known}: install the plugin that knows it{told}, or a newer efface."
        )
    origin = KINDS.origin(name)
    if origin is not None and origin.name in os.environ.get(ALLOWED, "").split(","):
        return KINDS.load(name)
    raise EffaceError(
        f"{start}, which the plugin {origin} knows, and reading a file imports no plugin: set {ALLOWED}="
        f"{origin and origin.name} if you trust it, or import it yourself."
    )
