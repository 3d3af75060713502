"""Only the networks that an erasure edits, a folder each, to be put into a pipeline that one already has.

    unet = UNet2DConditionModel.from_pretrained("church/unet"); pipe.unet = unet

For an edit of a text encoder's weights this is the text encoder alone. A text map has no such form: the states leave every
text encoder through a norm or a sum, which hold no matrix, so the map goes into the layers that read them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from efface.errors import EffaceError
from efface.export.config import ExportConfig
from efface.export.edit import Edit
from efface.export.names import split
from efface.export.written import Reading, Written
from efface.families.storage import REMEDY
from efface.models.tensors import tensors_of


def write(edit: Edit, pipeline: Any, path: Path, config: ExportConfig, source: Path | None) -> Written:
    """Write the edited networks."""
    names = edited_networks(edit)
    require_plain(pipeline, names)
    path.mkdir()
    with edit.attached(pipeline, fold=True, force=config.force):
        for name in names:
            getattr(pipeline, name).save_pretrained(path / name, safe_serialization=True)
    (path / "efface.json").write_text(json.dumps(edit.note(), indent=1))
    return Written(
        names=list(edit.weights),
        notes={"components": names, "layers": len(edit.weights)},
        readings=[_read_back(pipeline, path, names)],
    )


def edited_networks(edit: Edit) -> list[str]:
    """Names of the pipeline's components that hold edited weights."""
    return sorted({split(name, edit.model.components())[0] for name in edit.weights})


def require_plain(pipeline: Any, names: list[str]) -> None:
    """Raise EffaceError where components of a pipeline would be written as a library packed them."""
    for tensor in tensors_of({name: getattr(pipeline, name) for name in names}):
        if tensor.storage.coarse:
            raise EffaceError(f"{tensor.name} {tensor.storage.words}, which no file of weights holds: {REMEDY}.")


def read_networks(pipeline: Any, path: Path, names: list[str]) -> dict[str, Any]:
    """Components of a pipeline, by name, loaded anew from their folders in `path`."""
    networks = {}
    for name in names:
        own = getattr(pipeline, name)
        networks[name] = type(own).from_pretrained(path / name, dtype=own.dtype).to(own.device).eval()
    return networks


@contextmanager
def _read_back(pipeline: Any, path: Path, names: list[str]) -> Iterator[Reading]:
    """The networks loaded anew."""
    networks = read_networks(pipeline, path, names)
    weights = ((f"{name}.{key}", weight) for name in names for key, weight in networks[name].named_parameters())

    @contextmanager
    def put_in() -> Iterator[Any]:
        before = {name: getattr(pipeline, name) for name in names}
        try:
            for name, network in networks.items():
                setattr(pipeline, name, network)
            yield pipeline
        finally:
            for name, network in before.items():
                setattr(pipeline, name, network)

    yield Reading(weights, put_in)
