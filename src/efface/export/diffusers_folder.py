"""A diffusers folder: the whole pipeline with the erasure in its weights, for any server that loads one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from efface.export.component import edited_networks, read_networks, require_plain
from efface.export.config import ExportConfig
from efface.export.edit import Edit
from efface.export.written import Reading, Written
from efface.models.metadata import metadata_of


def write(edit: Edit, pipeline: Any, path: Path, config: ExportConfig, source: Path | None) -> Written:
    """Write the pipeline with folded weights."""
    require_plain(pipeline, edited_networks(edit))
    with edit.attached(pipeline, fold=True, force=config.force):
        pipeline.save_pretrained(path, safe_serialization=True)
    metadata = metadata_of(pipeline)
    note = edit.note()
    note |= {} if metadata is None else metadata.to_json()  # the folder keeps the name of the model it was made of
    (path / "efface.json").write_text(json.dumps(note, indent=1))
    return Written(
        names=list(edit.weights),
        notes={"layers": len(edit.weights)},
        readings=[_read_back(pipeline, path, edited_networks(edit))],
    )


@contextmanager
def _read_back(pipeline: Any, path: Path, names: list[str]) -> Iterator[Reading]:
    """The edited networks loaded anew, and the whole pipeline where pictures are drawn."""
    networks = read_networks(pipeline, path, names)
    weights = ((f"{name}.{key}", weight) for name in names for key, weight in networks[name].named_parameters())

    @contextmanager
    def load() -> Iterator[Any]:
        reloaded = type(pipeline).from_pretrained(path, dtype=networks[names[0]].dtype)
        reloaded.set_progress_bar_config(disable=True)
        yield reloaded.to(pipeline.device)

    yield Reading(weights, load)
