"""The tables that efface/concepts reads: nouns and their relations, and artists' names."""
