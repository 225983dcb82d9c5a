"""Priors: what other models' fits make of the package's, and the file they are kept in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roofml.calibration.other_models import Member, read_other_models, write_pooled
from roofml.calibration.prior import PACKAGE, pool
from roofml.latency.parameters import LOWER, NAMES, UPPER, to_coordinates
from roofml.util.errors import InputError
from roofml.validation.leaderboard.predictors import Learned

SIZE = len(NAMES)


def learned(shift: float, certain: float, name: str = "model") -> Learned:
    """A fit that found every parameter `shift` prior standard deviations away, and knows it `certain` times better."""
    return Learned(name, PACKAGE.mean + shift * PACKAGE.sd, PACKAGE.covariance / certain**2)


def test_without_fits_the_prior_is_the_package_s() -> None:
    assert pool([]) is PACKAGE


def test_the_centre_is_the_mean_with_the_package_as_one_more_model() -> None:
    found = pool([learned(0.3, 10), learned(0.6, 10), learned(0.3, 10)])
    assert (found.mean - PACKAGE.mean) / PACKAGE.sd == pytest.approx(0.3, rel=1e-12)


@given(st.floats(-1, 1), st.floats(1.5, 100))
def test_what_fits_agree_on_is_surer_than_before_and_never_surer_than_models_differ(
    shift: float, certain: float
) -> None:
    found = pool([learned(shift, certain)] * 4)
    assert np.all(found.sd**2 > 0)
    # Less than the package knew plus the scatter of models, more than half the scatter alone.
    scatter = found.covariance - pool([learned(shift, 1e6)] * 4).covariance
    assert np.all(np.linalg.eigvalsh(found.covariance) > 0)
    assert np.all(np.diag(scatter) > -1e-9 * found.sd**2)


def test_what_no_fit_could_tell_stays_as_uncertain_as_it_was() -> None:
    blind = pool([learned(0.0, 1.0 + 1e-9)] * 3)
    assert np.all(blind.sd > 0.99 * PACKAGE.sd)


def test_draws_have_the_prior_s_mean_stay_within_bounds_and_come_again() -> None:
    draws = PACKAGE.draws(400)
    assert draws.shape == (400, SIZE)
    assert draws.tolist() == PACKAGE.draws(400).tolist()
    for row in draws:
        x = to_coordinates(row)
        assert np.all(x >= LOWER - 1e-9)
        assert np.all(x <= UPPER + 1e-9)
    index = NAMES.index("weights")
    assert np.mean(np.log(draws[:, index])) == pytest.approx(PACKAGE.mean[index], abs=1e-9)  # mirrored in pairs


def a_member(name: str = "toy") -> Member:
    variance = PACKAGE.sd**2 / 9
    rows = [[float(f"{variance[i] * (i == j):.5g}") for j in range(i + 1)] for i in range(SIZE)]
    return Member(
        model=name,
        tensor_parallel=1,
        runs=["a"],
        requests=5,
        values=[float(f"{v:.6g}") for v in PACKAGE.values],
        covariance=rows,
    )


def test_the_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path, again = tmp_path / "global.yaml", tmp_path / "again.yaml"
    write_pooled(path, "H100", [a_member(), a_member("other")])
    found = read_other_models(path)
    assert found.members == [a_member(), a_member("other")]
    write_pooled(again, "H100", found.members)
    assert again.read_bytes() == path.read_bytes()


def test_a_model_s_own_fit_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "global.yaml"
    write_pooled(path, "H100", [a_member("Toy"), a_member("other")])
    found = read_other_models(path)
    assert found.prior("toy", "H100").source == "package, sharpened by other"
    assert found.prior("new", "H100").source == "package, sharpened by Toy, other"
    there, elsewhere = found.prior("new", "H100"), found.prior("new", "A100-SXM")
    assert elsewhere.sd == pytest.approx(2 * there.sd)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("roofml-global/1", "roofml-global/2", "schema: "),
        ("- prefill_gemm", "- prefill_gem", "parameters: expected prefill_gemm"),
        ("requests: 5", "requests: many", "members.0.requests: "),
        ("values: [", "values: [1.0, ", "members.0: expected"),
        ("gpu: H100", "gpu: H100\nmore: 1", "more: "),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_field(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "global.yaml"
    write_pooled(path, "H100", [a_member()])
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(InputError) as error:
        read_other_models(path)
    assert str(error.value).startswith(f"{path}: {message}")


def test_what_ships_has_all_four_models_and_kernels_explain_them() -> None:
    """Corrections of what kernel tables describe are within a tenth of 1: physics carries."""
    shipped = read_other_models()
    assert len(shipped.members) == 4
    for member in shipped.members:
        values = dict(zip(NAMES, member.values, strict=True))
        assert all(abs(values[name] - 1) < 0.1 for name in ("weights", "kv_cache", "decode_gemm"))
