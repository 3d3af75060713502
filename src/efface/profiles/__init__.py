"""What efface knows of a model beyond its weights: concepts, settings, judges, sites."""
