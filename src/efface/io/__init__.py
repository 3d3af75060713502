"""Bytes in and out: files, weights, pictures, the Hugging Face Hub; knows no model."""
