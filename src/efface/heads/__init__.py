"""Gated sparse heads: linear verdicts on a few named activations, of autoencoders and of judges; used by both."""
