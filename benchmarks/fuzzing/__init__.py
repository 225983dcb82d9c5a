"""Random inputs that have nearly the right shape, for every reader and for whole commands."""
