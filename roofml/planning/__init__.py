"""Planning: what a calibration is for. Does it still hold on a new run."""
