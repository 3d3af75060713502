"""Sparse autoencoders on a diffusion model: train them (harvest, train), read them (features), erase with them (saeuron)."""
