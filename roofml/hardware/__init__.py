"""Hardware: GPUs by their datasheets, and how far measured kernels fall short of those."""
