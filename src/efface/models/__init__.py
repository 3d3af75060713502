"""The door to a pipeline: encode, predict, sample, fingerprint."""
