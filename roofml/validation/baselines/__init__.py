"""Other ways to predict the same latencies, trained on the same requests and served by the same scheduler.

A new baseline needs a file in this folder and a row in `BASELINES`.
"""

from __future__ import annotations

from roofml.validation.baselines.baseline import Baseline as Baseline
from roofml.validation.baselines.baseline import BaselineModel as BaselineModel
from roofml.validation.baselines.baseline import Trained as Trained
from roofml.validation.baselines.bayesian_ridge import BAYESIAN_RIDGE
from roofml.validation.baselines.blackbox import BLACKBOX
from roofml.validation.baselines.blis_laws import BLIS_ROOFLINE, BLIS_TRAINED_PHYSICS
from roofml.validation.baselines.boosted_trees import BOOSTED_TREES
from roofml.validation.baselines.direct_calibration import DIRECT_CALIBRATION
from roofml.validation.baselines.naive_mean import NAIVE_MEAN
from roofml.validation.baselines.regime_ridge import THREE_REGIME_RIDGE, TWO_REGIME_RIDGE
from roofml.validation.baselines.samples import Samples as Samples
from roofml.validation.baselines.samples import samples_of as samples_of
from roofml.validation.baselines.symbolic import SYMBOLIC

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
"""Name -> baseline, in the order of tables."""
