"""A demonstration of what a plugin of efface is."""
