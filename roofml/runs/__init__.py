"""Readers: a run folder or trace file -> Run. A new format is one file here and one row in `READERS`."""
