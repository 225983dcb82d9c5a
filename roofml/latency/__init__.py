"""Latency: how long one engine step takes, and what fits into memory. Physics, and the parameters it leaves open."""
