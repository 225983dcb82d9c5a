"""Traces: what tools recorded of a served workload, read, and corrected by the doctor."""
