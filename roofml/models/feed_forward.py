"""Feed-forward networks: one MLP, or a mixture of experts with an optional MLP that every token uses."""

from __future__ import annotations

from dataclasses import dataclass

from roofml.models.weights import Projection


@dataclass(frozen=True)
class FeedForward:
    """An MLP or a mixture of experts. A `gated` MLP has gate, up and down projections, any other one up and down alone.

    With `experts` > 0 the network is a mixture: a router, `experts` MLPs of which a token uses `experts_per_token`, and
    an MLP of `shared_width` that all tokens use. Sizes are in elements.
    """

    width: int
    """Intermediate size of the MLP, or of one expert."""
    experts: int = 0
    experts_per_token: int = 0
    shared_width: int = 0
    """Intermediate size of the shared expert (of all of them together); 0 = none."""
    gated: bool = True
    bias: bool = False
    """The projections of MLP and experts have a bias."""
    router_bias: bool = False
    shared_gate: bool = False
    """The shared expert's output is scaled by a gate: a hidden-sized vector of weights."""
    latent: int = 0
    """Size of the vectors experts work on, between two projections that all experts share; 0 = the hidden state."""
    small: int = 0
    """Number of further parameters: norms and scales inside the block."""
    field: str = "intermediate_size"
    """The config field that `width` came from."""
    shared_field: str = "shared_expert_intermediate_size"
    shared_module: str = "mlp.shared_experts"

    def _mlp(self, module: str, gemm: str, hidden: int, width: int, field: str, experts: int) -> tuple[Projection, ...]:
        up = f"{gemm}gate_up" if self.gated else f"{gemm}up"
        names = ("gate_proj", "up_proj") if self.gated else ("up_proj",)
        rising = tuple(
            Projection(f"{module}.{name}", up, width, hidden, field=field, bias=self.bias, experts=experts)
            for name in names
        )
        down = Projection(
            f"{module}.down_proj", f"{gemm}down", hidden, width, "rows", field=field, bias=self.bias, experts=experts
        )
        return (*rising, down)

    def projections(self, hidden: int) -> tuple[Projection, ...]:
        """Gate, up and down; for a mixture those of the router (on every rank), the experts and the shared expert."""
        if not self.experts:
            return self._mlp("mlp", "", hidden, self.width, self.field, 0)
        whole = "replicated"
        router = Projection("mlp.gate", "router", self.experts, hidden, whole, bias=self.router_bias, quantizable=False)
        inner = self.latent or hidden
        parts = [router, *self._mlp("mlp.experts.0", "expert_", inner, self.width, self.field, self.experts)]
        if self.latent:
            parts.append(Projection("mlp.fc1_latent_proj", "latent_in", self.latent, hidden, whole, bias=self.bias))
            parts.append(Projection("mlp.fc2_latent_proj", "latent_out", hidden, self.latent, whole, bias=self.bias))
        if self.shared_width:
            parts += self._mlp(self.shared_module, "shared_", hidden, self.shared_width, self.shared_field, 0)
        if self.shared_gate:
            parts.append(Projection("mlp.shared_expert_gate", "shared_gate", 1, hidden, whole, quantizable=False))
        return tuple(parts)
