"""Toolbox of the closed forms: rows of text states, ridge edits, null spaces, certificates."""
