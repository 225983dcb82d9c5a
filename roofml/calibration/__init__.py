"""Calibration: what measurements say of the parameters that physics leaves open, and how surely."""
