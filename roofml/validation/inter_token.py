"""Inter-token latency as the client of a replayed run sees it, where its server sends several tokens at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from roofml.calibration.prediction import Prediction
from roofml.engine.replay import Replay
from roofml.engine.streaming import chunk_gaps_us
from roofml.traces.engine_version import wider_for
from roofml.traces.selection import Selection


def inter_token(judged: Selection, predicted: Replay, draws: Sequence[Replay] = ()) -> Mapping[str, Prediction]:
    """Mean and 99th percentile of the gaps between chunks of the judged requests, µs; `draws` give their interval.

    Nothing where every token is a chunk: then the mean gap of a request is its TPOT.
    """
    if judged.run.server.settings.stream_interval == 1:
        return {}
    of_all = [_mean_and_p99(judged, each) for each in (predicted, *draws)]
    if of_all[0] is None:
        return {}
    wider = wider_for(judged.run.server.engine)
    return {
        name: Prediction.of_draws(of_all[0][place], [drawn[place] for drawn in of_all[1:] if drawn]).stretched(wider)
        for place, name in enumerate(("itl_mean", "itl_p99"))
    }


def _mean_and_p99(judged: Selection, replayed: Replay) -> tuple[float, float] | None:
    gaps, request = chunk_gaps_us(judged.run, replayed)
    gaps = gaps[judged.requests[request]]
    return (float(np.mean(gaps)), float(np.percentile(gaps, 99))) if len(gaps) else None
