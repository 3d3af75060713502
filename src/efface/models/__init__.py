"""The interface to a pipeline: encode, predict, sample, fingerprint."""
