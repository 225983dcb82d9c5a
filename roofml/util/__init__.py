"""Util: errors, files read and written, and what else every room needs and none owns."""
