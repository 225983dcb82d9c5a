"""The version of roofml: it stands here and nowhere else."""

__version__ = "0.1.0"
