"""A Go package of our formula, with calibrations as artifacts beside it, and the adapter that BLIS loads it by."""
