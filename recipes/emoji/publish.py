"""Put the finished model, its judge and its words into the package: the one stage that imports efface.

python -m recipes.emoji.publish
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from efface.io.atomic import write_atomically
from efface.models.load import load
from efface.models.metadata import write_metadata
from recipes.emoji.check import GUIDANCE, STEPS
from recipes.emoji.training import stage
from recipes.emoji.words import OBJECTS, PLACES

PACKAGE = Path("src/efface/embedded/emoji")
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler", "model_index.json")


def words() -> dict:
    """What may be said for every object, and the places."""
    fields = ("name", "kind", "train_synonyms", "heldout_synonyms", "train_descriptions", "heldout_descriptions")
    objects = [{field: getattr(o, field) for field in fields} for o in OBJECTS]
    return {"objects": objects, "places": {p.name: p.phrases for p in PLACES}}


def main() -> None:
    """Copy `pipeline/` and `judges/` and write what the package reads beside them."""
    options = stage(__doc__ or "", into=str(PACKAGE))
    work, into = options.work, Path(options.into)
    into.mkdir(parents=True, exist_ok=True)
    for part in (*(work / "pipeline" / name for name in PARTS), work / "judges"):
        if part.is_dir():
            shutil.copytree(part, into / part.name, dirs_exist_ok=True)
        else:
            shutil.copy(part, into / part.name)
    write_atomically(into / "words.json", (json.dumps(words(), indent=1) + "\n").encode())
    print(write_metadata(into, load(str(into)), name=into.name, steps=STEPS, guidance=GUIDANCE))


if __name__ == "__main__":
    main()
