"""The scenes: a latent diffusion model embedded in the package that understands English and draws one or two things at a place."""
