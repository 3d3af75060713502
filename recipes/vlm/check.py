"""Figures of the model on pictures that no stage saw: composed scenes of one object, and pictures that the embedded model drew.

python -m recipes.vlm.check
python -m recipes.vlm.check --model recipes/vlm/weights --composed 0
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from efface.concepts.questions import NAME, STYLE, affirms, names, presence
from efface.io.images import images_of
from efface.models.vlm import VisionLanguageModel, load_vlm
from recipes.emoji.compose import Composer, pack
from recipes.emoji.training import DEVICE, stage
from recipes.emoji.words import BENCHMARK, STYLES
from recipes.vlm import WORK
from recipes.vlm.drawn import drawn
from recipes.vlm.tower import scene


def figures(
    vlm: VisionLanguageModel, pictures: Sequence[Image.Image], things: Sequence[int], hands: Sequence[int]
) -> dict[str, float]:
    """Shares of right answers: the name, the style, and whether something is there, half of it being there.

    Args:
        vlm: is asked.
        pictures: of one object each.
        things: index of each into BENCHMARK.
        hands: index of each into STYLES.
    """
    rng = random.Random(0)
    labels, styles = [BENCHMARK[thing] for thing in things], [STYLES[hand] for hand in hands]
    absent = [rng.choice([name for name in BENCHMARK if name != label]) for label in labels]
    count = len(pictures)
    named = vlm.answers(pictures, [NAME] * count)
    styled = vlm.answers(pictures, [STYLE] * count)
    there = vlm.answers(pictures, [presence(label) for label in labels])
    elsewhere = vlm.answers(pictures, [presence(label) for label in absent])
    right = {
        "name": [names(answer, (label,)) for answer, label in zip(named, labels, strict=True)],
        "style": [names(answer, (style,)) for answer, style in zip(styled, styles, strict=True)],
        "yes": [affirms(answer) for answer in there],
        "no": [not affirms(answer) for answer in elsewhere],
    }
    shares = {what: round(sum(hits) / count, 4) for what, hits in right.items()}
    return shares | {"yes_no": round((shares["yes"] + shares["no"]) / 2, 4), "pictures": count}


def composed_figures(vlm: VisionLanguageModel, work: Path, count: int, variants: int) -> dict[str, float]:
    """The same of composed scenes from seeds that training never had."""
    rng = random.Random(-1)
    scenes = []
    while len(scenes) < count:
        shown = scene(rng, variants)
        scenes += [shown] if len(shown.items) == 1 else []
    composer = Composer(work, DEVICE, variants, 1)
    pictures = images_of(composer(composer.to_device(pack(scenes))))
    return figures(vlm, pictures, [shown.items[0].thing for shown in scenes], [shown.style for shown in scenes])


def main() -> None:
    """Print the figures, of the drawn pictures also of those alone on which the judge sees what was asked for."""
    options = stage(__doc__ or "", work=WORK, model="", composed=400, variants=40)
    vlm = load_vlm(options.model or options.work / "model")
    found = {}
    if options.composed:
        found["composed"] = composed_figures(vlm, options.work, options.composed, options.variants)
    made = drawn(options.work, "held")
    pictures = [Image.fromarray(pixels.numpy()) for pixels in made["pixels"]]
    things, hands = made["thing"].tolist(), made["style"].tolist()
    found["drawn"] = figures(vlm, pictures, things, hands)
    sure = (made["named"] & made["styled"]).nonzero().flatten().tolist()
    some = [[values[i] for i in sure] for values in (pictures, things, hands)]
    found["drawn_as_judged"] = figures(vlm, *some)
    print(json.dumps(found, indent=1), flush=True)


if __name__ == "__main__":
    main()
