"""One file a trace format: `detect(path)` by content, `read(path)` -> the recordings in it."""
