"""Validation: how far predictions are off, on requests that were not learned from."""
