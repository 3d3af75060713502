"""A diffusers folder: the whole pipeline with the erasure in its weights, for any server that loads one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from efface.erasures import Erasure
from efface.export.check import Check
from efface.export.config import ExportConfig
from efface.export.targets import provenance_note, targets_of
from efface.models.metadata import metadata_of
from efface.models.model import Model


def write(
    erasure: Erasure, pipeline: Any, path: Path, config: ExportConfig, check: Check, source: Path | None
) -> tuple[np.ndarray, dict[str, Any]]:
    """Write the pipeline with folded weights, load it anew, and draw."""
    names = [target.name for target in targets_of(erasure, Model(pipeline))]
    with erasure.attached(pipeline, scale=config.scale, fold=True, force=config.force):
        pipeline.save_pretrained(path, safe_serialization=True)
    note = json.loads(provenance_note(erasure, config.scale)["efface"])
    metadata = metadata_of(pipeline)
    note |= {} if metadata is None else metadata.to_json()  # the folder keeps the name of the model it was made of
    (path / "efface.json").write_text(json.dumps(note, indent=1))
    reloaded = type(pipeline).from_pretrained(path, dtype=Model(pipeline).networks()[0].module.dtype)
    reloaded.set_progress_bar_config(disable=True)
    return check.draw(reloaded.to(pipeline.device)), {"layers": len(names)}
