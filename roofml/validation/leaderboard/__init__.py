"""Leaderboard: every method by every protocol on the same runs, with intervals and tests.

`cells` computes, `board` makes figures of what was computed, `page` shows them.
"""
