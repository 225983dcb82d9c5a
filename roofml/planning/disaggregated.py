"""Disaggregated serving: some servers compute prompts, others make the answers, and KV goes from one to the other.

As vLLM's proxy does with NixlConnector: a request goes to a prefill server with one token to make; its answer, which
the client does not see, tells where its KV lies; then all of it goes to a decode server, which takes blocks, pulls the
KV, computes the last token of the prompt again and makes every token that the client sees. So TTFT is the prefill
server's E2E of one token, and the decode server's TTFT. What decode servers do is no concern of prefill servers, so
each side is replayed by itself, one after the other. Two things that this leaves out are measured, and said when they
matter: prompts hold their blocks on the prefill server until they are pulled, and transfers from one prefill server to
several decode servers may meet on its link. A decode server's link serves its transfers in order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from roofml.calibration.calibration import Calibration
from roofml.calibration.drawn_replays import DrawnReplays, each_of
from roofml.calibration.prediction import Prediction
from roofml.engine.replay import Replay, replay
from roofml.latency.doubts import Doubt
from roofml.latency.parameters import Parameters
from roofml.models.kv_size import kept_bytes
from roofml.planning.joined import in_two_stages, joined
from roofml.planning.replicas import ServedByReplicas, check_replicas, live, serve_run, served_as
from roofml.planning.routing import Router
from roofml.planning.systems import Answer, Spread, warnings_of
from roofml.planning.transfer import NODE, Link, block_us
from roofml.traces.run import Run
from roofml.traces.server import Server
from roofml.util.arrays import Floats, Ints
from roofml.util.errors import InputError
from roofml.workloads.load import Load

T = TypeVar("T")
Draw = tuple[Parameters, Any]

MUCH_HELD = 0.25
"""Of a prefill server's KV blocks, held by prompts that are not pulled yet: more is said."""
BUSY_LINK = 0.3
"""Share of the time in which a prefill server's link is busy: more is said."""


@dataclass(frozen=True, eq=False)
class Side:
    """Servers alike that do one of the two."""

    calibration: Calibration
    server: Server
    servers: int

    @property
    def gpus(self) -> int:
        """Of all of them."""
        return self.servers * self.server.tensor_parallel

    def serve(self, run: Run, router: Router) -> ServedByReplicas:
        """Requests that come when they come."""
        return serve_run(run, self.servers, router, live(self.calibration), self.calibration.replay)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "gpu": self.calibration.deployment.gpu.name,
            "tp": self.server.tensor_parallel,
            "replicas": self.servers,
            "num_gpu_blocks": self.server.num_gpu_blocks,
        }


@dataclass(frozen=True, eq=False)
class Disaggregated:
    """Prefill servers and decode servers, each behind a router, and the link between them."""

    prefill: Side
    decode: Side
    link: Link
    router: Router = "least loaded"

    def __post_init__(self) -> None:
        """Raise InputError for numbers of servers, or a router, that are none."""
        check_replicas(self.prefill.servers, self.router, "prefill replicas")
        check_replicas(self.decode.servers, self.router, "decode replicas")

    @property
    def server(self) -> Server:
        """A decode server."""
        return self.decode.server

    @property
    def servers(self) -> int:
        """Decode servers."""
        return self.decode.servers

    @property
    def prompt_servers(self) -> int:
        """Prefill servers."""
        return self.prefill.servers

    @property
    def gpus(self) -> int:
        """Of both sides."""
        return self.prefill.gpus + self.decode.gpus

    @property
    def said(self) -> str:
        """For people."""
        return f"{self.prefill.servers} prefill and {self.decode.servers} decode servers, {self.router}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "prefill": self.prefill.to_dict(),
            "decode": self.decode.to_dict(),
            "router": self.router,
            "gpus": self.gpus,
            "link_gb_per_s": self.link.gb_per_s,
            "link_latency_us": self.link.latency_us,
            "link_said": self.link.said,
        }

    def serve(self, load: Load, progress: Ints | None = None) -> Answer:
        """Serve requests that come at a rate. Raises InputError for what is not modelled beside it: clients and
        sessions that wait for answers, clients that give up, and servers that turn requests away."""
        del progress  # of one replay, where there are many
        self._check(load)
        alone = replace(load, name=f"{load.name}, prompts", output_tokens=np.ones_like(load.output_tokens))
        prompts = alone.run(self.prefill.server)
        first = self.prefill.serve(prompts, self.router)
        if not first.completed.all():
            raise InputError(f"{load.name}: prefill servers turn requests away: not modelled beside decode servers")
        order, answers = self.answers_of(load, first.joined)
        then = self.decode.serve(answers, self.router)
        pulled = joined([order], [then.joined], len(load))
        run = load.run(self.decode.server)
        held, used = _held(first, pulled, prompts), _link_use(first, pulled, prompts, answers.kv_block_us, order)

        def spread(of: Run) -> Spread:
            saturated = of.saturated
            return DrawnStages(
                self,
                load,
                first,
                replace(then, replica=_in_order(then.replica, order)),
                self.prefill.calibration.replays(replace(prompts, saturated=saturated), served=first.joined),
                self.decode.calibration.replays(replace(answers, saturated=saturated), served=then.joined),
            )

        sent: Floats = self.kv_bytes(load.prompt_tokens).astype(np.float64)
        took: Floats = pulled.schedule.transfer_us[1] - pulled.schedule.transfer_us[0]
        facts = {
            "kv_bytes_per_request": float(sent.mean()),
            "transfer_ms": float(took.mean()) / 1e3,
            "held_for_decode": held,
            "prefill_link_use": used,
        }
        whole = in_two_stages(first.joined, pulled)
        return Answer(run, load.of_class, whole, spread, facts, self._left_out(held, used), (prompts, first.joined))

    def answers_of(self, load: Load, prompts: Replay) -> tuple[Ints, Run]:
        """(the order in which requests reach decode servers, their run there), of prompts that were served so."""
        sent, order = load.sent(load.arrival_us + prompts.e2e_us)
        run, size = sent.run(self.decode.server), self.decode.server.block_size
        ours, theirs = self.prefill.calibration.deployment, self.decode.calibration.deployment
        return order, replace(
            run,
            kv_tokens=run.prompt_tokens,
            kv_block_us=block_us(self.link, ours, theirs, run.prompt_tokens, size),
            kv_latency_us=np.full(len(run), self.link.latency_us),
        )

    def kv_bytes(self, prompt_tokens: Ints) -> Ints:
        """(requests,) bytes that all decode ranks receive of such prompts, in whole blocks."""
        size, theirs = self.decode.server.block_size, self.decode.calibration.deployment
        return theirs.tp * kept_bytes(theirs.on_rank.mixers(theirs.tp), -(-prompt_tokens // size) * size)

    def warnings(self, answer: Answer, run: Run) -> list[str]:
        """What is taken on trust, on either side."""
        assert answer.prompts is not None
        found = [
            *warnings_of(self.decode.calibration, run, answer.replay),
            *warnings_of(self.prefill.calibration, *answer.prompts),
        ]
        if self.link.from_sheet:
            beyond = f"; {self.gpus} GPUs are more than a node of {NODE}" if self.gpus > NODE else ""
            found.append(
                f"KV goes over {self.link.said}: an ideal, which transfers of many small blocks do not reach{beyond}: "
                "give --link what yours carries"
            )
        return list(dict.fromkeys((*found, *answer.warnings)))

    def _left_out(self, held: float, used: float) -> list[str]:
        """One sentence for each thing that is left out and matters."""
        found: list[str] = []
        if held > MUCH_HELD:
            found.append(
                f"prompts that are not pulled yet hold up to {100 * held:.0f} % of a prefill server's KV blocks, which "
                "its schedule here does not know of: TTFT may be longer"
            )
        if used > BUSY_LINK:
            found.append(
                f"the link of a prefill server is busy for {100 * used:.0f} % of the time: transfers that meet there "
                "take longer than said"
            )
        return found

    def _check(self, load: Load) -> None:
        if load.waits_for_answers:
            what = "clients" if load.clients else "sessions"
            raise InputError(
                f"{load.name}: {what} that wait for answers, beside prefill and decode servers: expected requests that "
                "come at a rate, or servers alike (--replicas)"
            )
        if np.isfinite(load.deadline_us):
            raise InputError(f"{load.name}: clients that give up: not modelled beside prefill and decode servers")


@dataclass(frozen=True, eq=False)
class DrawnStages:
    """Replays of both sides at draws of what is uncertain of them, one of each at a time.

    Requests stay with the servers that they went to. What is wrong of a kind of GPU is wrong of both sides, so the
    draws of either go together; where the sides differ that makes E2E less sure than it is.
    """

    system: Disaggregated
    load: Load
    prompts: ServedByReplicas
    answers: ServedByReplicas
    """Their `replica` in the load's order."""
    of_prompts: DrawnReplays
    of_answers: DrawnReplays

    @property
    def doubts(self) -> Sequence[Doubt]:
        """Of decode servers: they make most of the time."""
        return self.of_answers.doubts

    def each(self, figures: Callable[[Replay], T]) -> list[T]:
        """What `figures` makes of each."""
        pairs = list(zip(self.of_prompts.draws, self.of_answers.draws, strict=True))
        return each_of(pairs, lambda pair: figures(self._served(*pair)), len(self.load))

    def _served(self, of_prompts: Draw, of_answers: Draw) -> Replay:
        first = self.prompts.again(*of_prompts)
        order, run = self.system.answers_of(self.load, first)
        parameters, tables = of_answers
        then = served_as(run, self.answers.replica[order], lambda each: replay(each, tables, parameters))
        return in_two_stages(first, joined([order], [then.joined], len(self.load)))

    def predicted(
        self, metric: str, value: float, drawn: Sequence[float | None], more: Mapping[str, float] | None = None
    ) -> Prediction:
        """As unsure as the side that it mostly is of: TTFT of prefill servers, all others of decode servers."""
        return (self.of_prompts if metric.startswith("ttft") else self.of_answers).predicted(metric, value, drawn, more)


def _in_order(of_sorted: Ints, order: Ints) -> Ints:
    """Values of requests that were sorted so, in the order before."""
    whole = np.empty_like(of_sorted)
    whole[order] = of_sorted
    return whole


def _held(first: ServedByReplicas, pulled: Replay, prompts: Run) -> float:
    """The largest share of a prefill server's KV blocks that prompts hold from their end until they are pulled."""
    done, size = prompts.arrival_us + first.e2e_us, prompts.server.block_size
    blocks = -(-prompts.prompt_tokens // size)
    most = 0.0
    for place in first.places:
        times = np.concatenate((done[place], pulled.schedule.transfer_us[1, place]))
        change = np.concatenate((blocks[place], -blocks[place]))
        most = max(most, float(np.cumsum(change[np.argsort(times, kind="stable")]).max()))
    return most / max(prompts.server.num_gpu_blocks - 1, 1)


def _link_use(first: ServedByReplicas, pulled: Replay, prompts: Run, block_us: Floats, order: Ints) -> float:
    """The largest share of the load's time in which a prefill server's link carries KV."""
    sent_us = np.empty(len(prompts))
    sent_us[order] = block_us * -(-prompts.prompt_tokens[order] // prompts.server.block_size)
    span = float(np.nanmax(pulled.schedule.transfer_us[1]) - prompts.arrival_us[0])
    return max(float(sent_us[place].sum()) for place in first.places) / max(span, 1.0)
