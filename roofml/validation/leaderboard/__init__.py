"""Leaderboard: every method by every protocol on the same runs, with intervals and tests.

`cells` computes, `board` makes figures from the cells, and `page` shows the figures.
"""
