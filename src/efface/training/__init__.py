"""Toolbox of trained edits: which parameters, on which pictures."""
