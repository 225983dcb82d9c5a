"""Loads that nobody has run yet: how many requests come when, and how long they are."""
