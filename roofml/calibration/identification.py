"""Identification: all that a fit's data say of the parameters, what they leave open, and which load would tell more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from roofml.calibration.calibration import Calibration
from roofml.calibration.experiment_design import Gain, gains, noise_of, small_loads
from roofml.calibration.forwards.cases import limits_of_server
from roofml.calibration.forwards.design import spread_of_steps
from roofml.calibration.forwards.offsets import OFFSET_PRIOR
from roofml.calibration.forwards.times import Timed
from roofml.calibration.identifiability import (
    Direction,
    Knowledge,
    Profile,
    directions,
    effective_parameters,
    parameters,
    problem_of,
    profiles,
    unsure,
)
from roofml.latency.parameters import BY_NAME, NAMES, to_coordinates
from roofml.traces.run import Run
from roofml.traces.selection import first
from roofml.util.display import Shown, Table, digits

SILENT = 0.05
"""Directions of which the data decide less than this share are not shown."""


@dataclass(frozen=True, eq=False, repr=False)
class Identification(Shown):
    """What the data of a fit say of each parameter."""

    calibration: Calibration
    knowledge: Sequence[Knowledge]
    directions: Sequence[Direction]
    profiles: Sequence[Profile]
    gains: Sequence[Gain]

    def tables(self) -> list[Table]:
        """Parameters, combinations that are decided, and extra loads."""
        posterior = self.calibration.posterior
        by_name = {profile.name: profile for profile in self.profiles}
        known = [
            [
                of.name,
                f"{digits(of.value, 4)} {BY_NAME[of.name].unit}".strip() + (f", {of.bound} bound" if of.bound else ""),
                digits(of.prior_sd),
                digits(of.posterior_sd),
                f"{100 * of.variance_removed:.0f}",
                f"{of.partner} {of.correlation:+.2f}" if of.partner else "-",
                *_ends(by_name.get(of.name)),
            ]
            for of in self.knowledge
        ]
        columns = ["parameter", "value", "prior sd", "sd", "data %", "confused with", "profile 95 %", "by data alone"]
        decided = [
            [
                " ".join(f"{weight:+.2f} {name}" for name, weight in direction.terms()),
                f"{100 * direction.variance_removed:.0f}",
            ]
            for direction in self.directions
            if direction.variance_removed >= SILENT
        ]
        count = effective_parameters(self.directions)
        rest = (
            f"The data decide {count:.1f} of {len(NAMES)} parameters. Of {len(self.directions) - len(decided)} "
            f"combinations they decide less than {100 * SILENT:.0f} %."
        )
        sd = dict(zip(NAMES, posterior.sd, strict=True))
        loads = [
            [
                gain.what,
                str(gain.requests),
                f"{gain.seconds:.0f}",
                f"{gain.narrows_pct:.0f}",
                f"{gain.nats:.2f}",
                f"{gain.nats_per_minute:.1f}",
                "\n".join(
                    f"{name} {digits(sd[name], 2)} to {digits(gain.sd[NAMES.index(name)], 2)}" for name in gain.pins()
                )
                or "-",
            ]
            for gain in self.gains
        ]
        extra = ["extra load on the same server", "requests", "seconds", "narrows %", "nats", "nats/min"]
        extra.append("sd of what gains most")
        title = f"{self.calibration.deployment.title}: what {posterior.requests} requests say"
        return [
            Table(title, columns, known),
            Table("combinations that the data decide, in prior sd", ["combination", "data %"], decided, rest),
            Table("what a small extra load would tell", extra, loads),
        ]

    def to_dict(self) -> dict[str, Any]:
        """As `roofml identify --json` prints it."""
        deployment, posterior = self.calibration.deployment, self.calibration.posterior
        by_name = {profile.name: profile for profile in self.profiles}

        def interval(name: str) -> dict[str, Any]:
            if name not in by_name:
                return {"profile": None, "profile_of_data": None, "profile_settled": None}
            profile = by_name[name]
            return {
                "profile": {"low": profile.low, "high": profile.high},
                "profile_of_data": {"low": profile.data_low, "high": profile.data_high},
                "profile_settled": profile.settled,
            }

        return {
            "model": deployment.model.name,
            "gpu": deployment.gpu.name,
            "tp": deployment.tp,
            "prior": posterior.prior.source,
            "requests": posterior.requests,
            "converged": posterior.converged,
            "effective_parameters": effective_parameters(self.directions),
            "parameters": [
                {
                    "name": of.name,
                    "unit": BY_NAME[of.name].unit,
                    "value": of.value,
                    "prior_sd": of.prior_sd,
                    "posterior_sd": of.posterior_sd,
                    "decided_pct": 100 * of.variance_removed,
                    "partner": of.partner,
                    "correlation": of.correlation,
                    "bound": of.bound,
                    **interval(of.name),
                }
                for of in self.knowledge
            ],
            "directions": [
                {
                    "decided_pct": 100 * direction.variance_removed,
                    "weights": dict(zip(NAMES, direction.weights.tolist(), strict=True)),
                }
                for direction in self.directions
            ],
            "loads": [
                {
                    "load": gain.what,
                    "requests": gain.requests,
                    "seconds": gain.seconds,
                    "narrows_pct": gain.narrows_pct,
                    "nats": gain.nats,
                    "nats_per_minute": gain.nats_per_minute,
                    "pins": gain.pins(),
                    "posterior_sd": dict(zip(NAMES, gain.sd.tolist(), strict=True)),
                }
                for gain in self.gains
            ],
        }


def _ends(profile: Profile | None) -> tuple[str, str]:
    """Both intervals as text; nothing for a parameter that needs none."""
    if profile is None:
        return "", ""

    def text(low: float | None, high: float | None) -> str:
        if low is None and high is None:
            return "open"
        return f"{'open' if low is None else digits(low)} to {'open' if high is None else digits(high)}"

    rough = "" if profile.settled else " ?"  # the search for an end still moved when it stopped
    return text(profile.low, profile.high) + rough, text(profile.data_low, profile.data_high) + rough


def _silent(what: str, step: int, steps: int) -> None:
    """Nobody listens."""


def identify(
    calibration: Calibration,
    runs: Sequence[Run],
    with_profiles: bool = True,
    on_step: Callable[[str, int, int], None] | None = None,
) -> Identification:
    """What the data of a fresh fit of `runs` say. `on_step(what, i, n)` is called as it goes on."""
    say = on_step or _silent
    posterior, tables = calibration.posterior, calibration.deployment.tables
    knowledge = parameters(posterior)
    problem = problem_of(posterior, first(runs, calibration.train_fraction), tables)
    x = to_coordinates(posterior.values)
    say("extra loads", 0, 1)
    loads = small_loads(runs[0].server, tables, posterior.values)
    steps = spread_of_steps(calibration, limits_of_server(calibration.deployment, runs[0].server))
    reaching = calibration.deployment.reaching(int(steps.new_tokens.max())).tables
    _, wanted = Timed.of(steps, reaching, bare=False).times_and_slopes(posterior.values, OFFSET_PRIOR)
    told = gains(posterior, loads, tables, noise_of(problem, x), wanted[:, : len(NAMES)])
    names = unsure(knowledge) if with_profiles else ()
    intervals = profiles(problem, x, names, lambda i, n: say("profile intervals", i, n))
    return Identification(calibration, knowledge, directions(posterior), intervals, told)
