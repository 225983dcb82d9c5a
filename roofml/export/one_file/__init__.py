"""Our formula and calibrations as one file of another language: a C99 header, a Rust module."""
