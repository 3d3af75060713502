"""Out into other people's tools: an erasure as a LoRA, a diffusers folder, a single-file checkpoint or a patch.

Every export is read back and its pictures are compared with those of the attached erasure before it takes its name. Names
are imported when first used, so that help lists the targets before torch is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from efface.registry import lazily

if TYPE_CHECKING:
    from efface.export.config import EXPORTS, ExportConfig
    from efface.export.run import ExportResult, export

_HOMES = {
    "EXPORTS": "efface.export.config",
    "ExportConfig": "efface.export.config",
    "ExportResult": "efface.export.run",
    "export": "efface.export.run",
}

__all__ = ["EXPORTS", "ExportConfig", "ExportResult", "export"]

__getattr__ = lazily(__name__, _HOMES, globals())
