"""Our formula in other languages: read from the Python functions themselves, so that it is written down once."""
