"""A catalogue: calibrations of many deployments, made together from a folder of runs and kept up to date."""
