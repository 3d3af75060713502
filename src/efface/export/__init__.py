"""Out into other people's tools: an erasure as a LoRA, a diffusers folder, a single-file checkpoint or a patch.

Every export is read back and its pictures are compared with those of the attached erasure before it takes its name.
"""

from __future__ import annotations

from efface.export.config import EXPORTS, ExportConfig
from efface.export.run import Exported, export

__all__ = ["EXPORTS", "ExportConfig", "Exported", "export"]
