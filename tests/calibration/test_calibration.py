"""Calibration: physics alone says how sure it is, a fit says what it saw, and a file carries either's predictions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commandline import ok
from fitted import MODEL, VALID, a_calibration, a_posterior, a_run, measured_again

from roofml.calibration.calibrate import load, physics
from roofml.calibration.calibration import Calibration
from roofml.calibration.prediction import PARAMETERS
from roofml.calibration.prior import PACKAGE
from roofml.latency.batch import Batch, StepSums
from roofml.latency.components import COMPONENTS
from roofml.latency.parameters import NAMES
from roofml.models.spec import config_path
from roofml.util.errors import InputError

pytestmark = pytest.mark.slow

BATCH = Batch(prefill=[(16, 560)], decode=[(700, 64)])
OLD = Path(__file__).resolve().parents[1] / "data" / "coefficients-0.1.0" / "llama-2-7b-hf-h100-tp1.yaml"


@pytest.fixture(scope="module")
def untraced() -> Calibration:
    return physics(MODEL, "H100", 1)


@pytest.fixture(scope="module")
def fitted() -> Calibration:
    return a_calibration()


# Intervals.


def test_steps_have_an_interval_and_a_fit_is_the_surer(untraced: Calibration) -> None:
    fitted = a_calibration(covariance=PACKAGE.covariance / 100)
    assert (untraced.fitted, fitted.fitted) == (False, True)
    wide, narrow = untraced.step_time(BATCH), fitted.step_time(BATCH)
    for step in (wide, narrow):
        low, high = step.interval_us or (0.0, 0.0)
        assert 0 < low < step.total_us < high
        assert {PARAMETERS, "formula", "server"} <= set(step.total.variances)
    assert narrow.total.sd < wide.total.sd


def test_a_step_outside_of_what_was_seen_has_a_wider_interval_that_says_so(fitted: Calibration) -> None:
    assert "range" not in fitted.step_time(Batch(decode=[(700, VALID["batch"][1])])).total.variances
    beyond = fitted.step_time(Batch(decode=[(300, 4 * VALID["batch"][1])]))
    assert beyond.total.variances["range"] > 0
    assert "range" in repr(beyond)


def test_a_run_is_replayed_with_draws_around_its_replay(untraced: Calibration, fitted: Calibration) -> None:
    run = a_run()
    for calibration in (untraced, fitted):
        spread = calibration.replays(run, 6)
        assert len(spread) == len(spread.draws) == 6
        means = [float(np.mean(one.e2e_us)) for one in spread]
        assert len(set(means)) == 6
        assert means == spread.each(lambda served: float(np.mean(served.e2e_us)))
        assert means == [float(np.mean(one.e2e_us)) for one in calibration.replays(run, 6)]
        value = float(np.mean(calibration.replay(run).e2e_us))
        assert min(means) < value < max(means)
        low, high = spread.predicted("e2e_mean", value, means).interval_90 or (0.0, 0.0)
        assert low < value < high
        wider = spread.predicted("e2e_mean", value, means, {"arrivals": 0.01})
        assert wider.variances["arrivals"] > 0
        assert (wider.interval_90 or (0.0, 0.0))[1] > high


def test_another_server_is_less_sure_than_one_that_was_fitted_and_no_trace_least(
    untraced: Calibration, fitted: Calibration
) -> None:
    run = a_run()
    other = measured_again(run, e2e_us=1.01 * run.e2e_us)
    assert fitted.knowledge(run) == "server"
    assert fitted.knowledge(other) == "model"
    assert untraced.knowledge(run) == "nothing"
    assert set(fitted.replays(run, 2).sources) < set(fitted.replays(other, 2).sources)
    assert "overload" in fitted.replays(replace(other, saturated=True), 2).sources


def test_physics_is_identified_by_nothing_and_has_no_file(untraced: Calibration, tmp_path: Path) -> None:
    assert not any(row["identified"] for row in untraced.rows())
    assert untraced.posterior.requests == 0
    with pytest.raises(InputError, match="nothing was fitted"):
        untraced.save(tmp_path / "c.yaml")
    assert list(tmp_path.iterdir()) == []


# What people see.


def test_it_is_shown_as_the_table_that_the_command_prints(fitted: Calibration) -> None:
    shown = repr(fitted)
    assert "llama-2-7b-hf on H100, TP 1" in shown
    assert all(name in shown for name in NAMES)
    assert "errors of means, in sample" in shown
    assert "made up" in shown
    assert all(line == line.rstrip() for line in shown.splitlines())
    page = fitted._repr_html_()
    assert page.count("<table>") == page.count("</table>") == 2
    assert page.count("<tr>") == (len(NAMES) + 1) + (1 + 1)
    assert "llama-2-7b-hf on H100, TP 1" in page


def test_physics_is_shown_as_one_table(untraced: Calibration) -> None:
    assert untraced._repr_html_().count("<table>") == 1
    assert "in sample" not in repr(untraced)
    assert "communication" in repr(untraced)


def test_names_that_look_like_markup_are_shown_as_they_are() -> None:
    odd = a_calibration([replace(a_run(), name="[red]x[/] <b>")])
    assert "[red]x[/] <b>" in repr(odd)
    assert "[red]x[/] &lt;b&gt;" in odd._repr_html_()


def test_a_step_is_shown_and_said_as_the_command_does(untraced: Calibration, fitted: Calibration) -> None:
    command = ("predict", MODEL, "--gpu", "H100", "--prefill", "16@560", "--decode", "700x64")
    step = untraced.step_time(BATCH)
    assert json.loads(json.dumps(step.to_dict())) == ok(*command, "--json").document
    assert repr(step).split() == ok(*command).out.split()  # a caption may be broken into other lines
    assert "90 % interval" in repr(step)
    assert "90 % interval" in repr(fitted.step_time(BATCH))
    assert step._repr_html_().startswith("<table>")


def test_what_a_step_says_adds_up(fitted: Calibration) -> None:
    said = fitted.step_time(BATCH).to_dict()
    assert (said["model"], said["gpu"], said["tp"], said["calibrated"]) == ("llama-2-7b-hf", "H100", 1, True)
    assert said["interval_90_us"][0] < said["step_time_us"] < said["interval_90_us"][1]
    assert list(said["components_us"]) == list(COMPONENTS)
    values = dict(zip(NAMES, fitted.values, strict=True))
    kv_cache = said["components_us"]["kv_cache"]
    assert kv_cache["corrected"] == pytest.approx(values["kv_cache"] * kv_cache["physics"])
    assert said["overheads_us"]["requests"] == pytest.approx(65 * values["per_request_us"])
    assert said["overheads_us"]["layers"] == pytest.approx(32 * values["per_layer_us"])


# Files.


def test_what_was_saved_and_loaded_predicts_the_same(fitted: Calibration, tmp_path: Path) -> None:
    """To the six digits of the file; and once more to the last bit."""
    fitted.save(tmp_path / "c.yaml")
    found = load(tmp_path / "c.yaml")
    assert found.step_time(BATCH).total_us == pytest.approx(fitted.step_time(BATCH).total_us, rel=1e-5)
    assert found.step_time(BATCH).interval_us == pytest.approx(fitted.step_time(BATCH).interval_us, rel=1e-3)
    found.save(tmp_path / "again.yaml")
    again = load(tmp_path / "again.yaml")
    assert again.step_time(BATCH).to_dict() == found.step_time(BATCH).to_dict()
    assert (tmp_path / "again.yaml").read_bytes() == (tmp_path / "c.yaml").read_bytes()
    assert found.to_yaml() == (tmp_path / "c.yaml").read_text()
    np.testing.assert_array_equal(found.replay(a_run()).e2e_us, again.replay(a_run()).e2e_us)
    paced = found.pace_of(a_run()) * found.step_time(BATCH).total_us
    assert found.step_times(a_run())(BATCH.sums())[0] == pytest.approx(paced, rel=1e-12)


def test_its_mapping_is_the_file_s_without_what_is_not_there(fitted: Calibration) -> None:
    mapping = json.loads(json.dumps(fitted.to_dict(), allow_nan=False))
    assert "blis" not in mapping
    assert "step_tables" not in mapping["fit"]
    assert mapping["fit"]["run_sha256"] == {"made up": a_run().identity}
    assert mapping["schema"] == "roofml/1"


# Servers.


def test_a_server_is_known_by_what_was_measured(fitted: Calibration) -> None:
    run = a_run()
    namesake = measured_again(run, e2e_us=2 * run.e2e_us)
    assert fitted.pace_of(run) == fitted.pace_of(replace(run, name="moved")) == 1.003
    assert fitted.pace_of(namesake) == 1
    assert fitted.parameters_for(run).step == fitted.parameters.paced(1.003).step
    assert fitted.parameters_for(namesake) == fitted.parameters
    assert fitted.warnings_for(run) == fitted.warnings_for(namesake) == []


def test_a_file_of_0_1_0_knows_servers_by_name_alone_and_says_so() -> None:
    old = load(OLD)
    known = replace(a_run(), name=old.runs[0].name)
    assert old.pace_of(known) == old.runs[0].pace == 0.99389
    *_, warning = [text for text in old.warnings_for(known) if "pace" in text]
    assert warning.startswith(f"{known.name}: its pace is that of a run of this name in {OLD}, ")
    assert warning.endswith("refit to be sure")
    assert old.pace_of(a_run()) == 1
    assert not any("pace" in text for text in old.warnings_for(a_run()))


def test_a_name_that_a_file_of_0_1_0_has_twice_is_nobody_s() -> None:
    old = load(OLD)
    twice = replace(old, runs=(old.runs[0], replace(old.runs[1], name=old.runs[0].name)))
    assert twice.pace_of(replace(a_run(), name=old.runs[0].name)) == 1


# Reach.


def decodes(count: int, context: int) -> list[tuple[int, int, int]]:
    return [(1, context, 0)] * count


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (decodes(64, 2000), []),
        (decodes(1, 100), []),
        (decodes(65, 500), ["batch"]),
        (decodes(8, 99), ["mean context"]),
        (decodes(8, 2001), ["mean context"]),
        ([(2049, 0, 2049)], ["new tokens"]),
        ([*decodes(64, 5000), (2000, 0, 2000)], ["batch", "mean context", "new tokens"]),
    ],
)
def test_steps_outside_what_the_fit_saw_are_said(
    fitted: Calibration, batch: list[tuple[int, int, int]], said: list[str]
) -> None:
    warnings = fitted.outside(StepSums.from_requests([batch]))
    assert len(warnings) == len(said)
    for warning, word in zip(warnings, said, strict=True):
        assert warning.startswith(word)
        assert "the fit has seen" in warning


def test_the_share_outside_is_that_of_steps(fitted: Calibration) -> None:
    steps = StepSums.from_requests([*[decodes(8, 500)] * 3, decodes(100, 500)])
    (warning,) = fitted.outside(steps)
    assert warning == "batch 8 to 100: the fit has seen 1 to 64 (25 % of steps lie outside)"


def test_a_step_without_decodes_has_no_context_to_judge(fitted: Calibration) -> None:
    assert fitted.outside(StepSums.from_requests([[(512, 0, 512)]])) == []


def test_physics_has_seen_nothing_and_warns_of_nothing(untraced: Calibration) -> None:
    assert untraced.outside(StepSums.from_requests([decodes(500, 100_000)])) == []


def test_a_step_says_what_lies_outside(fitted: Calibration) -> None:
    assert fitted.step_time(BATCH).outside == ("batch 65 to 65: the fit has seen 1 to 64 (100 % of steps lie outside)",)
    wider = replace(fitted, posterior=a_posterior(valid=VALID | {"batch": (1, 128)}))
    assert wider.step_time(BATCH).outside == ()


# Whose it is.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "meta-llama/Llama-2-70b-hf"}, "made up: model llama-2-70b-hf is not that of a fit: llama-2-7b-hf"),
        ({"tensor_parallel": 2}, "made up: tensor parallel size 2 is not that of a fit: 1"),
        ({"gpu": "A100-SXM"}, "made up: GPU A100-SXM is not that of a fit: H100"),
    ],
)
def test_a_run_of_another_deployment_is_refused(fitted: Calibration, changes: dict[str, object], message: str) -> None:
    run = replace(a_run(), server=replace(a_run().server, **changes))
    with pytest.raises(InputError) as refused:
        fitted.replay(run)
    assert str(refused.value) == message


def test_a_run_of_another_model_of_the_same_name_is_refused(fitted: Calibration, tmp_path: Path) -> None:
    folder = tmp_path / "llama-2-7b-hf"
    folder.mkdir()
    config = json.loads(config_path(MODEL).read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 2048}))
    run = replace(a_run(), server=replace(a_run().server, model=str(folder)))
    with pytest.raises(InputError, match=r"llama-2-7b-hf.*which has another digest"):
        fitted.check(run)
    (folder / "config.json").write_bytes(config_path(MODEL).read_bytes())
    fitted.check(run)


def test_a_run_that_does_not_say_its_gpu_is_of_the_calibration_s(fitted: Calibration) -> None:
    silent = replace(a_run(), server=replace(a_run().server, gpu=None))
    np.testing.assert_array_equal(fitted.replay(silent).e2e_us, fitted.replay(a_run()).e2e_us)


def test_a_prior_of_ones_own_replaces_the_package_s() -> None:
    mine = physics(MODEL, "H100", 1, prior=PACKAGE)
    assert mine.source == "package"
    assert mine.values.tolist() == PACKAGE.values.tolist()
    assert np.all(mine.posterior.sd >= PACKAGE.sd)


def test_a_server_with_a_larger_budget_is_served_with_tables_that_reach_it(fitted: Calibration) -> None:
    run = replace(a_run(), server=replace(a_run().server, max_num_batched_tokens=4096))
    assert fitted.deployment.budget == 2048
    np.testing.assert_array_equal(fitted.replay(run).e2e_us, fitted.replay(a_run()).e2e_us)
    assert fitted.step_time(Batch(prefill=[(4096, 0)])).total_us > fitted.step_time(Batch(prefill=[(2048, 0)])).total_us
