"""A small block-wise autoregressive diffusion transformer on the canvas's latents: the benchmark's objects, alone on plain grounds."""
