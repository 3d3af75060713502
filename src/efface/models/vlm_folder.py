"""Whether a folder holds a vision-language model; free of torch, so that a command may ask at once."""

from __future__ import annotations

import json
from pathlib import Path


def is_vlm_folder(path: Path) -> bool:
    """Whether a folder holds a LLaVA as transformers saves one."""
    try:
        return json.loads((path / "config.json").read_text()).get("model_type") == "llava"
    except (OSError, ValueError, AttributeError):
        return False
