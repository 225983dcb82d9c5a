"""Baselines: other ways to predict the same latencies, trained on the same requests and served by the same scheduler.

A new one is one file here and one row below.
"""

from __future__ import annotations

from roofml.baselines.baseline import Baseline as Baseline
from roofml.baselines.baseline import Served as Served
from roofml.baselines.baseline import Trained as Trained
from roofml.baselines.baseline import serve as serve
from roofml.baselines.bayesian_ridge import BAYESIAN_RIDGE
from roofml.baselines.blackbox import BLACKBOX
from roofml.baselines.blis_laws import BLIS_ROOFLINE, BLIS_TRAINED_PHYSICS
from roofml.baselines.boosted_trees import BOOSTED_TREES
from roofml.baselines.direct_calibration import DIRECT_CALIBRATION
from roofml.baselines.naive_mean import NAIVE_MEAN
from roofml.baselines.regime_ridge import THREE_REGIME_RIDGE, TWO_REGIME_RIDGE
from roofml.baselines.samples import Samples as Samples
from roofml.baselines.samples import samples_of as samples_of
from roofml.baselines.symbolic import SYMBOLIC

BASELINES: dict[str, Baseline] = {
    baseline.name: baseline
    for baseline in (
        NAIVE_MEAN,
        BLACKBOX,
        BLIS_ROOFLINE,
        BLIS_TRAINED_PHYSICS,
        DIRECT_CALIBRATION,
        TWO_REGIME_RIDGE,
        THREE_REGIME_RIDGE,
        BAYESIAN_RIDGE,
        BOOSTED_TREES,
        SYMBOLIC,
    )
}
"""Name -> baseline, in the order of a table."""
