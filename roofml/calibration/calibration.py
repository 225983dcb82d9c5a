"""Calibration: a deployment with values for all that its physics leaves open. Made by `physics`, `fit` or `load`.

It is the one thing that replay, evaluate, predict and export take, whether a trace was fitted or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from roofml.calibration.coefficients import (
    SCHEMA,
    BlisSection,
    Coefficients,
    coefficients_of,
    coefficients_text,
    rounded,
    write_coefficients,
)
from roofml.calibration.drawn_replays import DrawnReplays, Stretches, draws_for, draws_of
from roofml.calibration.fitted_run import FittedRun
from roofml.calibration.front_end import pauses_said
from roofml.calibration.knowledge import LEARNED_ON, Knowledge, beside, pace_sources, step_sources, stretch
from roofml.calibration.parameter_tables import FITTED_METRICS, parameter_rows, parameter_tables
from roofml.calibration.posterior import Posterior
from roofml.calibration.prior import Prior
from roofml.calibration.seen_range import beyond, excesses
from roofml.calibration.step_breakdown import StepBreakdown, break_down
from roofml.calibration.subset import subsets_written
from roofml.engine.arguments import Waits
from roofml.engine.replay import Replay
from roofml.engine.replay import replay as serve
from roofml.engine.step_time import StepTimes
from roofml.hardware.gpu import load_gpu
from roofml.latency.batch import Batch, StepSums
from roofml.latency.deployment import Deployment
from roofml.latency.doubts import Doubt
from roofml.latency.feasibility import check_run, check_step
from roofml.latency.formula import step_times
from roofml.latency.launches import said_of_launches
from roofml.latency.parameters import NAMES, PARAMETERS, Parameters, to_coordinates
from roofml.latency.pauses import NO_PAUSES
from roofml.models.load import load_model
from roofml.traces.engine_version import wider_for
from roofml.traces.run import Run
from roofml.traces.selection import Selection
from roofml.util.arrays import Floats, Ints
from roofml.util.display import Shown, Table
from roofml.util.errors import InputError, JobFailedError
from roofml.util.version import __version__

STEP_DRAWS = 1000
"""Step times behind an interval."""
RARELY_PCT = 0.1
"""A prediction may leave the fitted range in so many of its steps before it warns: the fit's own run does, replayed."""


@dataclass(frozen=True, eq=False, repr=False)
class Calibration(Shown):
    """A deployment, values for its parameters, how sure they are, and how fast the servers were that were seen."""

    deployment: Deployment
    posterior: Posterior
    runs: tuple[FittedRun, ...] = ()
    """What was learned from; nothing for physics alone."""
    train_fraction: float = 1.0
    step_tables: tuple[str, ...] = ()
    """Files of sampled steps that were fitted too."""
    blis: BlisSection | None = None
    """What BLIS's own form needs of the same deployment."""
    path: Path | None = None
    """The file it was read from."""
    said: tuple[str, ...] | None = None
    """What the file says was not identified; None where the posterior says it."""
    allow_oversize: bool = False
    """What cannot fit on the GPUs is said, not refused."""
    misfit: tuple[str, ...] = ()
    """Why this fit does not describe what it was fitted to (`judge`); empty where it does."""
    unsaid: tuple[str, ...] = ()
    """What its file does not say, and may be otherwise now."""

    def __post_init__(self) -> None:
        """Put what the fit found at captured sizes into the deployment's tables."""
        object.__setattr__(self, "deployment", self.deployment.climbing(self.posterior.stairs))

    @property
    def fitted(self) -> bool:
        """Whether any trace of the model was used."""
        return bool(self.runs)

    @property
    def certain(self) -> bool:
        """Whether requests were fitted. Means and exact batches alone leave more open."""
        return any(not (run.means_alone or run.forwards) for run in self.runs)

    @property
    def values(self) -> Floats:
        """(parameters,) in the order of `parameters.PARAMETERS`."""
        return self.posterior.values

    @property
    def parameters(self) -> Parameters:
        """The same, as the replay takes them."""
        return Parameters.of(self.values)

    @property
    def converged(self) -> bool:
        """False: the schedule still moved in the last round; more requests or a smaller load settle it."""
        return self.posterior.converged

    @property
    def not_identified(self) -> tuple[str, ...]:
        """Parameters that the prior decides more than the data."""
        return self.posterior.not_identified if self.said is None else self.said

    def pace_of(self, run: Run) -> float:
        """How much longer the run's server takes for a step than these parameters say: 1 of one not seen.

        A file of 0.1.0 knows servers by name alone: names are taken where they are unique, and `warnings_for` says so.
        """
        pace = self._seen_pace(run)
        return 1.0 if pace is None else pace

    def _seen_pace(self, run: Run) -> float | None:
        by_identity = [seen.pace for seen in self.runs if seen.identity == run.identity and seen.pace is not None]
        if by_identity:
            return by_identity[0]
        by_name = [seen.pace for seen in self.runs if not seen.identity and seen.name == run.name]
        return by_name[0] if len(by_name) == 1 else None

    @property
    def doubts(self) -> list[str]:
        """What every use has to say: of a fit that does not describe its runs, of arithmetic that the GPU lacks."""
        misfit = [f"{self.source}: this fit does not describe its runs: {sentence}" for sentence in self.misfit]
        return [*misfit, *self.unsaid, *self.deployment.weight_only]

    def warnings_for(self, run: Run) -> list[str]:
        """What is taken on trust when this run is predicted."""
        if any(not seen.identity and seen.name == run.name and seen.pace is not None for seen in self.runs):
            text = (
                f"{run.name}: its pace is that of a run of this name in {self.path}, which does not say which that was"
            )
            return [*self.doubts, f"{text}: refit to be sure"]
        return [*self.doubts, *self._other_engine(run), *self.unfit(run)]

    def unfit(self, run: Run) -> list[str]:
        """What the server of the run cannot do that it is set to. Raises InputError for one that cannot be at all."""
        ours = self.deployment
        return check_run(ours.on_rank, ours.gpu, ours.tp, run, allow_oversize=self.allow_oversize)

    def _other_engine(self, run: Run) -> list[str]:
        """Whether the run was served by another engine, or version of it, than those this was fitted on."""
        server, fitted_on = run.server, self.deployment.engine
        if not self.fitted:
            return []
        if server.engine != fitted_on.name:
            return [f"{run.name}: it was served by {server.engine}, and {self.source} is of {fitted_on.name}"]
        versions = (fitted_on.version or "").split(", ")
        if server.engine_version is None or versions == [""] or server.engine_version in versions:
            return []
        return [
            f"{run.name}: it was served by {server.engine} {server.engine_version}, and {self.source} is of "
            f"{fitted_on.version}: step times differ between versions"
        ]

    def parameters_for(self, run: Run) -> Parameters:
        """The parameters at the pace of the run's server, with its pauses."""
        pauses = self.posterior.pauses.get(run.identity, NO_PAUSES)
        return self.parameters.paced(self.pace_of(run))._replace(pauses=pauses)

    def step_time(self, batch: Batch) -> StepBreakdown:
        """The time of one step that computes `batch`, on any server of its kind, component by component."""
        ours = self.deployment
        unfit = check_step(ours.on_rank, ours.gpu, ours.tp, batch, allow_oversize=self.allow_oversize)
        steps = batch.sums(verified=int(ours.tables.verified))
        return break_down(
            ours,
            batch,
            self.parameters,
            self.draws(STEP_DRAWS),
            self.source if self.fitted else "",
            (*self.doubts, *unfit, *self.outside(steps)),
            self.open_doubts,
            sources=step_sources(steps, self.posterior.valid),
            stretch=self.stretch("model" if self.certain else "nothing", "tpot_mean"),
        )

    @property
    def open_doubts(self) -> tuple[Doubt, ...]:
        """Why step times are less sure than those of a measured deployment: nothing where they were fitted."""
        return () if self.fitted else self.deployment.doubts

    def step_times(self, run: Run) -> StepTimes:
        """How long steps take on the server of `run`."""
        tables, step = self.deployment.tables, self.parameters_for(run).step
        return lambda steps: step_times(tables, steps, step)

    def replay(self, run: Run, progress: Ints | None = None, waits: Waits | None = None) -> Replay:
        """Serve the run's requests again, as vLLM would at this calibration's step times.

        `progress` and `waits` as in `engine.replay.replay`. Raises InputError for a run of another model, GPU or tensor
        parallel size, and for a request that can never run.
        """
        self.check(run)
        return serve(run, self._tables_for(run), self.parameters_for(run), progress, waits)

    def replays(
        self, run: Run, count: int | None = None, served: Replay | None = None, judged: Selection | None = None
    ) -> DrawnReplays:
        """Replays of the run for draws of all that is uncertain of its server, the same every time.

        `count` of them, or as many as an interval needs; `served` is its replay by the parameters themselves, if there
        is one. Of a very long run stretches of the `judged` are served alone, if they are given. Raises as `replay`.
        """
        served = self.replay(run) if served is None else served
        some = Stretches.of(judged, served, self.replay)
        count = draws_for(run if some is None else some.run) if count is None else count
        knowledge = self.knowledge(run)
        steps = served.schedule.steps
        sources = pace_sources(knowledge, run.saturated, steps, self.posterior.valid)
        known = excesses(steps, self.posterior.valid) == 0 if knowledge == "server" else None
        tables, pauses = self._tables_for(run), self.parameters_for(run).pauses
        draws, paces = draws_of(served, tables, self._believed, self.pace_of(run), sources, count, known, pauses)
        wider = wider_for(run.server.engine)
        launched = said_of_launches(served.schedule.step_time_us, steps.new_tokens, tables)
        apart = run.saturated or bool(launched)

        def stretch_of(metric: str) -> float:
            return wider * self.stretch(knowledge, metric, apart)

        return DrawnReplays(run, draws, paces, sources, beside, stretch_of, self.open_doubts, some)

    def knowledge(self, run: Run) -> Knowledge:
        """What it has seen of the run's server."""
        if not self.certain:
            return "nothing"
        return "model" if self._seen_pace(run) is None else "server"

    def stretch(self, knowledge: Knowledge, metric: str, apart: bool = False) -> float:
        """How much wider an interval must be than its sources say; 1 for what no run has taught.

        `apart`: of overload, or of steps that take as long as their launches, which no interval was made narrower for.
        """
        if knowledge == "nothing" and (self.deployment.doubts or self.deployment.gpu.name != LEARNED_ON):
            return 1.0
        learned = stretch(knowledge, metric, self.deployment.model.name)
        return max(1.0, learned) if apart else learned

    @cached_property
    def _believed(self) -> Prior:
        """How uncertain the parameters are."""
        posterior = self.posterior
        if not self.fitted:
            return posterior.prior
        return Prior(to_coordinates(posterior.values), posterior.covariance, "")

    def draws(self, count: int) -> Floats:
        """`count` sets of parameter values, (count, parameters), as uncertain as they are; the same every time."""
        return self._believed.draws(count)

    def outside(self, steps: StepSums) -> list[str]:
        """One sentence for each way in which `steps` leave the range of batches and contexts the fit has seen."""
        return [left.sentence for left in beyond(steps, self.posterior.valid, RARELY_PCT)]

    def check(self, run: Run) -> None:
        """Raise InputError unless the run is of this calibration's model, GPU and tensor parallel size, and can be.

        By what they are: a config and a datasheet are compared by digest, whatever they are called.
        """
        server, ours = run.server, self.deployment
        self.unfit(run)
        if (server.model, server.gpu or ours.gpu.name, server.tensor_parallel) == (
            ours.hf_repo,
            ours.gpu.name,
            ours.tp,
        ):
            return
        model, gpu = load_model(server.model), load_gpu(server.gpu or ours.gpu.name)
        pairs = {
            "model": (model.name, model.config_sha256, ours.model.name, ours.model.config_sha256),
            "GPU": (gpu.name, gpu.sheet_sha256, ours.gpu.name, ours.gpu.sheet_sha256),
            "tensor parallel size": (str(server.tensor_parallel), "", str(ours.tp), ""),
        }
        for what, (name, digest, our_name, our_digest) in pairs.items():
            if digest != our_digest or (not digest and name != our_name):
                other = f"{our_name}, which has another digest" if name == our_name else our_name
                raise InputError(f"{run.name}: {what} {name} is not that of {self.source}: {other}")

    @property
    def source(self) -> str:
        """Where the parameters come from, for people to read."""
        return str(self.path) if self.path is not None else "a fit" if self.fitted else self.posterior.prior.source

    def rows(self) -> list[dict[str, Any]]:
        """Each parameter with its 95 % interval, prior, and whether the data identified it."""
        return parameter_rows(self.posterior, self.not_identified if self.fitted else NAMES)

    def tables(self) -> list[Table]:
        """The parameters, and the errors in sample."""
        return parameter_tables(self.deployment.title, self.rows(), self.runs)

    def coefficients(self) -> Coefficients:
        """The file's content. Raises InputError for physics alone, which no file has to carry.

        Raises JobFailedError for a fit that ended with values that no file may have.
        """
        if not self.fitted:
            raise InputError("nothing was fitted: physics and what other models taught need no file")
        deployment, posterior = self.deployment, self.posterior
        groups: dict[str, dict[str, float]] = {}
        for parameter, value in zip(PARAMETERS, self.values, strict=True):
            groups.setdefault(parameter.group, {})[parameter.name] = rounded(value)
        stairs = {size: rounded(longer, 4) for size, longer in posterior.stairs.items()}
        names = [parameter.name for parameter in PARAMETERS]
        request = groups.pop("request")
        content = {
            "schema": SCHEMA,
            "model": {
                "name": deployment.model.name,
                "hf_repo": deployment.hf_repo,
                "config_sha256": deployment.model.config_sha256,
            },
            "gpu": deployment.gpu.name,
            "tensor_parallel": deployment.tp,
            "engine": vars(deployment.engine),
            "physics": {
                "gpu_sheet_sha256": deployment.gpu.sheet_sha256,
                "kernel_tables_sha256": deployment.kernels_sha256,
            },
            "step": {**groups, "stairs": stairs or None},
            "request": request,
            "fit": {
                "runs": [run.name for run in self.runs],
                "run_sha256": {run.name: run.identity for run in self.runs},
                "requests": posterior.requests,
                "step_tables": list(self.step_tables) or None,
                "means_alone": [run.name for run in self.runs if run.means_alone] or None,
                "forwards": [run.name for run in self.runs if run.forwards] or None,
                "train_fraction": self.train_fraction,
                "prior": posterior.prior.source,
                "rounds": posterior.rounds,
                "converged": posterior.converged,
                "misfit": list(self.misfit) or None,
                "error_pct": {
                    run.name: {name: rounded(run.error_pct.get(name, 0.0), 3) for name in FITTED_METRICS}
                    for run in self.runs
                    if run.error_pct
                },
                "sd": {name: rounded(sd, 3) for name, sd in zip(names, posterior.sd, strict=True)},
                "not_identified": list(self.not_identified),
                "paces": {run.name: rounded(run.pace) for run in self.runs if run.pace is not None},
                "pauses": pauses_said({run.name: posterior.pauses.get(run.identity) for run in self.runs}),
                "subsets": subsets_written({run.name: posterior.subsets.get(run.identity) for run in self.runs}),
                "valid": dict(posterior.valid),
                "covariance": [
                    [rounded(value, 4) for value in row[: i + 1]] for i, row in enumerate(posterior.covariance)
                ],
                "roofml": __version__,
            },
            "blis": self.blis,
        }
        try:
            return coefficients_of(content, "the fit")
        except InputError as error:  # not the user's: the fit ended where no coefficients can be
            raise JobFailedError(f"{error}: nothing was written") from None

    def to_yaml(self) -> str:
        """The text of the coefficients file."""
        return coefficients_text(self.coefficients())

    def save(self, path: str | Path, *, accept_misfit: bool = False) -> None:
        """Write the coefficients file in one piece. Raises InputError where its folder does not exist.

        A fit that does not describe its runs raises JobFailedError instead, unless `accept_misfit`: then the file says
        so, and everything that uses it.
        """
        self.check_described(accept_misfit)
        write_coefficients(Path(path), self.coefficients())

    def check_described(self, accept_misfit: bool = False) -> None:
        """Raise JobFailedError, which says what looks wrong, for a fit that does not describe its runs."""
        if self.misfit and not accept_misfit:
            raise JobFailedError(
                f"the fit does not describe its runs: {'; '.join(self.misfit)} (--accept-misfit takes it all the same)"
            )

    def to_dict(self) -> dict[str, Any]:
        """The coefficients file's content as one JSON-able mapping, without what it does not have."""
        mapping = self.coefficients().model_dump(by_alias=True, mode="json")
        of_fit = ("step_tables", "means_alone", "forwards", "misfit", "pauses", "subsets")
        optional = ((mapping, "blis"), (mapping["step"], "stairs"), *((mapping["fit"], key) for key in of_fit))
        for section, key in optional:
            if section[key] is None:
                del section[key]
        return mapping

    def _tables_for(self, run: Run) -> Any:
        return self.deployment.serving(run.server).tables
