"""Only the networks that an erasure edits, a folder each, to be put into a pipeline that one already has.

    unet = UNet2DConditionModel.from_pretrained("church/unet"); pipe.unet = unet

For an edit of a text encoder's weights this is the text encoder alone. A text map has no such form: the states leave every
text encoder through a norm or a sum, which hold no matrix, so the map goes into the layers that read them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from efface.erasures import Erasure
from efface.export.check import Check
from efface.export.config import ExportConfig
from efface.export.names import split
from efface.export.targets import provenance_note, targets_of
from efface.models.model import Model


def write(
    erasure: Erasure, pipeline: Any, path: Path, config: ExportConfig, check: Check, source: Path | None
) -> tuple[np.ndarray, dict[str, Any]]:
    """Write the edited networks, load them anew, put them into the pipeline for a moment, and draw."""
    own = Model(pipeline).components()
    edited = [split(target.name, own)[0] for target in targets_of(erasure, Model(pipeline))]
    names = sorted(set(edited))
    path.mkdir()
    with erasure.attached(pipeline, scale=config.scale, fold=True, force=config.force):
        for name in names:
            getattr(pipeline, name).save_pretrained(path / name, safe_serialization=True)
    note = json.loads(provenance_note(erasure, config.scale)["efface"])
    (path / "efface.json").write_text(json.dumps(note, indent=1))
    before = {name: getattr(pipeline, name) for name in names}
    try:
        for name, network in before.items():
            read = type(network).from_pretrained(path / name, dtype=network.dtype)
            setattr(pipeline, name, read.to(network.device).eval())
        return check.draw(pipeline), {"components": names, "layers": len(edited)}
    finally:
        for name, network in before.items():
            setattr(pipeline, name, network)
