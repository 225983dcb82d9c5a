"""Priors: what other models' fits make of the package's, and the file they are kept in."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from roofml.calibration.other_models import SavedPosterior, read_other_models, write_other_models
from roofml.calibration.prior import PACKAGE, ModelEvidence, pool
from roofml.hardware.gpu import load_gpu
from roofml.latency.deployment import Deployment, deploy
from roofml.latency.parameters import LOWER, NAMES, UPPER, to_coordinates
from roofml.util.errors import InputError

SIZE = len(NAMES)
H100 = load_gpu("H100")


def learned(shift: float, certain: float, name: str = "model") -> ModelEvidence:
    """A fit that found every parameter `shift` prior standard deviations away, and knows it `certain` times better."""
    return ModelEvidence(name, PACKAGE.mean + shift * PACKAGE.sd, PACKAGE.covariance / certain**2)


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


def a_member(name: str = "toy", config_sha256: str | None = None) -> SavedPosterior:
    variance = PACKAGE.sd**2 / 9
    rows = [[float(f"{variance[i] * (i == j):.5g}") for j in range(i + 1)] for i in range(SIZE)]
    return SavedPosterior(
        model=name,
        config_sha256=config_sha256,
        tensor_parallel=1,
        runs=["a"],
        requests=5,
        values=[float(f"{v:.6g}") for v in PACKAGE.values],
        covariance=rows,
    )


@cache
def deployment() -> Deployment:
    return deploy("llama-2-7b-hf", "H100", 1, 16)


def called(name: str) -> Deployment:
    """A deployment of a model of this name."""
    here = deployment()
    return replace(here, model=replace(here.model, name=name))


def test_the_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path, again = tmp_path / "global.yaml", tmp_path / "again.yaml"
    write_other_models(path, H100, [a_member(), a_member("other")])
    found = read_other_models(path)
    assert found.members == [a_member(), a_member("other")]
    write_other_models(again, H100, found.members)
    assert again.read_bytes() == path.read_bytes()


def test_a_model_s_own_fit_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "global.yaml"
    write_other_models(path, H100, [a_member("Toy"), a_member("other")])
    found = read_other_models(path)
    assert found.prior(called("toy")).source == "package, sharpened by other"
    there = found.prior(called("new"))
    assert there.source == "package, sharpened by Toy, other"
    elsewhere = found.prior(replace(called("new"), gpu=load_gpu("A100-SXM")))
    assert elsewhere.sd == pytest.approx(2 * there.sd)
    assert elsewhere.source == "package, sharpened by Toy, other (on H100)"


def test_a_model_s_own_fit_is_known_by_its_config_and_a_gpu_by_its_sheet(tmp_path: Path) -> None:
    path = tmp_path / "global.yaml"
    here = called("new")
    write_other_models(path, H100, [a_member("other-name", here.model.config_sha256), a_member("other")])
    found = read_other_models(path)
    assert found.prior(here).source == "package, sharpened by other"
    faster = replace(here, gpu=replace(H100, bandwidth_bytes_per_us=2 * H100.bandwidth_bytes_per_us))
    assert found.prior(faster).sd == pytest.approx(2 * found.prior(here).sd)


def test_a_file_of_0_1_0_knows_models_and_gpus_by_name(tmp_path: Path) -> None:
    """It has no digest."""
    path = tmp_path / "global.yaml"
    write_other_models(path, H100, [a_member("toy"), a_member("other")])
    path.write_text("".join(line for line in path.read_text().splitlines(True) if "sha256" not in line))
    found = read_other_models(path)
    assert (found.gpu_sheet_sha256, found.members[0].config_sha256) == (None, None)
    assert found.prior(called("toy")).source == "package, sharpened by other"


def test_a_parameter_that_a_file_lacks_is_the_package_s(tmp_path: Path) -> None:
    """Made before it was: of it the fit says nothing, and of the others what it said."""
    path = tmp_path / "global.yaml"
    write_other_models(path, H100, [a_member()])
    index = NAMES.index("long_context")
    document = YAML(typ="safe").load(path.read_text())
    del document["parameters"][index]
    for member in document["members"]:
        del member["values"][index], member["covariance"][index]
        for row in member["covariance"][index:]:
            del row[index]
    YAML(typ="safe").dump(document, path)
    found = read_other_models(path)
    evidence = found.members[0].evidence(found.parameters)
    assert evidence.mean[index] == pytest.approx(PACKAGE.mean[index])
    assert evidence.covariance[index, index] == PACKAGE.covariance[index, index]
    rest = np.arange(SIZE) != index
    full = a_member().evidence(NAMES)
    np.testing.assert_array_equal(evidence.mean[rest], full.mean[rest])
    np.testing.assert_array_equal(evidence.covariance[np.ix_(rest, rest)], full.covariance[np.ix_(rest, rest)])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("roofml-global/1", "roofml-global/2", "schema: roofml-global/2 is newer than this roofml"),
        ("- prefill_gemm", "- prefill_gem", "parameters: prefill_gem, expected prefill_gemm"),
        ("requests: 5", "requests: many", "members.0.requests: "),
        ("values: [", "values: [1.0, ", "members.0: expected"),
        ("gpu: H100", "gpu: H100\nmore: 1", "more: "),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_field(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "global.yaml"
    write_other_models(path, H100, [a_member()])
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
