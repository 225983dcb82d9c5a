"""Forwards: which exact batches to time on a GPU of one's own, and what their times say of the parameters."""
