"""Jobs: work that is cut into tasks, done by as many processes or machines as there are, and each task done once.

`cluster` runs them on Dask, `kept` keeps what each came to in a folder or store of `places`, and `work` does the rest:
what is known is not computed again, and what was stopped goes on.
"""
