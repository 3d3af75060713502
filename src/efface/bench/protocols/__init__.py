"""Protocols: which pictures are drawn, and how their verdicts become a table; one file each."""
