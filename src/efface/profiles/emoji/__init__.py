"""The emoji canvas: a small latent diffusion model embedded in the package, drawn by nine hands (see NOTICE)."""
