"""Guards: what happens to a picture while it is drawn, one file a rule."""
