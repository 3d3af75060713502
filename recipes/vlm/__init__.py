"""The recipe of a small vision-language model: LLaVA's own classes, 96 px, which says what is in a picture of the canvas.

One command a stage, each seeded and resumable, on one thread; everything lands in `build/vlm`:

    python -m recipes.emoji.fetch --work build/vlm     # drawings, pinned by sha256 (needs npm, pip)
    python -m recipes.emoji.render --work build/vlm    # 576 RGBA drawings
    python -m recipes.vlm.drawn                        # pictures that the embedded model draws, and whether it drew what was asked
    python -m recipes.vlm.tower                        # the vision tower, taught what every cell shows
    python -m recipes.vlm.answers                      # projector and language model, taught to answer
    python -m recipes.vlm.check                        # figures on pictures that no stage saw
    python -m recipes.vlm.publish                      # in half precision into recipes/vlm/weights
"""

WORK = "build/vlm"
"""Folder of the recipe's products."""
