"""Assemble the pipeline: the transformer of this recipe, and the embedded model's text encoder, tokenizer and autoencoder.

    python -m recipes.acdit.assemble out/acdit
    efface erase uce out/acdit church -o church.safetensors

Its folder says how many steps and what guidance the model is used with.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from efface.families.acdit_pipeline import ACDiTPipeline
from efface.io import embedded
from efface.models.metadata import write_metadata

WEIGHTS = Path(__file__).parent / "weights"
STEPS = 12
"""Of every block."""
GUIDANCE = 3.0
NAME = "acdit"


def assembled(weights: Path = WEIGHTS) -> ACDiTPipeline:
    """The pipeline in memory, on the CPU."""
    pipeline: Any = ACDiTPipeline.with_parts_of(embedded.folder("emoji"), weights)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    pipeline = assembled(options.weights)
    pipeline.save_pretrained(options.folder)
    write_metadata(options.folder, pipeline, name=NAME, steps=STEPS, guidance=GUIDANCE)
    print(f"{options.folder}: {STEPS} steps a block, guidance {GUIDANCE}")


if __name__ == "__main__":
    main()
