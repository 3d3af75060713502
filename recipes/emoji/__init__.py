"""The recipe of the emoji canvas, one command a stage, each resumable and seeded:

    python -m recipes.emoji.fetch         # drawings, from npm, pinned by sha256
    python -m recipes.emoji.render        # 576 RGBA pictures
    python -m recipes.emoji.autoencoder   # pictures -> 16 x 16 x 4 latents
    python -m recipes.emoji.denoiser      # tokenizer, text encoder and UNet
    python -m recipes.emoji.judges        # style and object classifiers
    python -m recipes.emoji.check         # figures and sample sheets of docs/canvas.md

Everything lands in `build/emoji`; `recipes.emoji.denoiser --publish` copies the fp16 pipeline into the package.
"""
