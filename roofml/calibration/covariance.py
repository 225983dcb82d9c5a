"""Covariances as files have them: the rows of a lower triangle, each number rounded to a few digits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from roofml.util.arrays import Floats
from roofml.util.errors import InputError

ROUNDING = 5e-4
"""Largest relative change of a number that is written with four digits."""
SD_ROUNDING = 0.01
"""Standard deviations are written with three digits: they agree with the covariance to 0.5 %, and rounding apart."""


def check_triangle(rows: Sequence[Sequence[float]], size: int, where: str, *, definite: bool = False) -> None:
    """Raise InputError beginning with `where` unless the rows are the lower triangle of a covariance of `size`.

    Its correlations must have no negative eigenvalue. Rounding moves each of them by at most `ROUNDING`, and so an
    eigenvalue by at most `size` times that, by Gershgorin's theorem: a covariance may be so much off before it is
    refused. With `definite`, of one that is going to be inverted, every eigenvalue must be above 0.
    """
    if [len(row) for row in rows] != list(range(1, size + 1)):
        raise InputError(f"{where}: expected a lower triangle of {size} rows, the first of one number")
    if size == 0:
        return
    lower = np.zeros((size, size))
    for number, row in enumerate(rows):
        lower[number, : number + 1] = row
    variances = np.diag(lower).copy()
    least = np.finfo(np.float64).tiny if definite else 0.0
    if np.any(variances < least):
        row = int(np.argmax(variances < least))
        said = "a variance above 0" if definite else "a variance of 0 or more"
        raise InputError(f"{where}.{row}.{row}: expected {said}, found {variances[row]:g}")
    symmetric = lower + np.tril(lower, -1).T
    unsure = variances > 0
    if np.any(symmetric[~unsure] != 0):
        row = int(np.argmax(~unsure & (symmetric != 0).any(axis=1)))
        raise InputError(f"{where}.{row}: its variance is 0, expected covariances of 0 as well")
    sd = np.sqrt(variances[unsure])
    correlations: Floats = symmetric[np.ix_(unsure, unsure)] / sd[:, None] / sd
    smallest = float(np.linalg.eigvalsh(correlations).min()) if unsure.any() else 1.0
    if not smallest >= (1e-9 if definite else -size * ROUNDING):
        raise InputError(f"{where}: not a covariance: expected no negative eigenvalue, found one of {smallest:.3g}")


def check_sd(sd: Sequence[float], rows: Sequence[Sequence[float]], names: Sequence[str], where: str) -> None:
    """Raise InputError where a standard deviation is not the root of its variance on the triangle's diagonal."""
    for name, said, row in zip(names, sd, rows, strict=True):
        root = float(np.sqrt(row[-1]))
        if abs(said - root) > SD_ROUNDING * root:
            raise InputError(f"{where}.{name}: {said:g} is not the root of its variance, {root:.3g}")
