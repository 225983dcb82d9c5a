"""What a simulation is wanted of, as its user says it: one server, several behind a router, or two kinds of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from roofml.calibration.calibration import Calibration
from roofml.calibration.servers import server_for
from roofml.planning.disaggregated import Disaggregated, Side
from roofml.planning.routing import Router
from roofml.planning.systems import OneServer, Replicas, System, on_tables
from roofml.planning.transfer import link_between
from roofml.traces.server import Server, ServerOverrides
from roofml.util.errors import InputError


@dataclass(frozen=True)
class Wanted:
    """Numbers of servers, and what is between them; None where nobody says."""

    replicas: int | None = None
    prefill_replicas: int | None = None
    decode_replicas: int | None = None
    router: str | None = None
    """With spaces or hyphens."""
    link_gb_per_s: float | None = None
    """Of each GPU, one direction."""

    @property
    def disaggregated(self) -> bool:
        """Whether prompts and answers are of different servers."""
        return self.prefill_replicas is not None or self.decode_replicas is not None

    def check(self, other_prefill: bool = False) -> None:
        """Raise InputError for what does not go together; `other_prefill`: prefill servers are of another kind."""
        one = (("--prefill-replicas", self.prefill_replicas), ("--decode-replicas", self.decode_replicas))
        lacking = [flag for flag, said in one if said is None]
        if self.disaggregated and lacking:
            raise InputError(f"{lacking[0]} missing: prefill and decode servers need each other")
        if self.disaggregated and self.replicas is not None:
            raise InputError("--replicas beside --prefill-replicas and --decode-replicas: expected one or the other")
        for flag, there in (("--link", self.link_gb_per_s is not None), ("another prefill server", other_prefill)):
            if there and not self.disaggregated:
                raise InputError(f"{flag}: expected --prefill-replicas and --decode-replicas beside it")
        if self.router is not None and not self.disaggregated and self.replicas is None:
            raise InputError("--router: expected --replicas, or --prefill-replicas and --decode-replicas, beside it")


def system_of(
    wanted: Wanted,
    calibration: Calibration,
    server: Server,
    prefill: Calibration | None = None,
    overrides: ServerOverrides | None = None,
) -> System:
    """What is wanted of servers like this one; prompts on those of `prefill`, if that is another, which are set up by
    vLLM's defaults and the `overrides`. Raises InputError for what cannot be, or does not go together."""
    wanted.check(other_prefill=prefill is not None)
    ours = on_tables(calibration, server)
    router = cast(Router, (wanted.router or "least loaded").replace("-", " ").strip())
    if wanted.replicas is not None:
        return Replicas(ours, server, wanted.replicas, router)
    if wanted.prefill_replicas is None or wanted.decode_replicas is None:
        return OneServer(ours, server)
    theirs, their_server = ours, server
    if prefill is not None:
        their_server = server_for(prefill, overrides or ServerOverrides())
        theirs = on_tables(prefill, their_server)
    link = link_between(theirs.deployment, ours.deployment, wanted.link_gb_per_s)
    sides = Side(theirs, their_server, wanted.prefill_replicas), Side(ours, server, wanted.decode_replicas)
    return Disaggregated(*sides, link, router)
