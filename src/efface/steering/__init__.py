"""Toolbox of edits by latents of sparse autoencoders: tables, anchors, calibration."""
