"""Inter-token latency as the client of a replayed run sees it, where its server sends several tokens at a time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from roofml.calibration.drawn_replays import DrawnReplays
from roofml.calibration.prediction import Prediction
from roofml.engine.replay import Replay
from roofml.engine.streaming import chunk_gaps_us
from roofml.traces.selection import Selection


def inter_token(judged: Selection, predicted: Replay, spread: DrawnReplays) -> Mapping[str, Prediction]:
    """Mean and 99th percentile of the gaps between chunks of the judged requests, µs; `spread` gives their interval.

    Nothing where every token is a chunk: then the mean gap of a request is its TPOT.
    """
    if judged.run.server.settings.stream_interval == 1:
        return {}
    found = _mean_and_p99(judged, predicted)
    if found is None:
        return {}
    of_draws = spread.each(lambda served: _mean_and_p99(judged, served))
    return {
        name: spread.predicted(name, found[place], [drawn and drawn[place] for drawn in of_draws])
        for place, name in enumerate(("itl_mean", "itl_p99"))
    }


def _mean_and_p99(judged: Selection, replayed: Replay) -> tuple[float, float] | None:
    gaps, request = chunk_gaps_us(judged.run, replayed)
    gaps = gaps[judged.requests[request]]
    return (float(np.mean(gaps)), float(np.percentile(gaps, 99))) if len(gaps) else None
