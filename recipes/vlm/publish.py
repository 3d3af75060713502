"""Write the trained model in half precision into recipes/vlm/weights; it is no part of the wheel.

python -m recipes.vlm.publish
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from recipes.emoji.training import replace_folder, stage
from recipes.vlm import WORK

WEIGHTS = Path(__file__).parent / "weights"


def main() -> None:
    """Put a new folder in the place of the old one."""
    options = stage(__doc__ or "", work=WORK, target=str(WEIGHTS))
    source, target = options.work / "model", Path(options.target)
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model = LlavaForConditionalGeneration.from_pretrained(source, dtype=torch.float16)
    model.save_pretrained(partial)
    LlavaProcessor.from_pretrained(source).save_pretrained(partial)
    replace_folder(partial, target)
    size = sum(path.stat().st_size for path in target.iterdir())
    print(f"{target}: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M weights, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
