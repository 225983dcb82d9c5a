"""Layer: one decoder layer, a mixer and a feed-forward network with their norms."""

from __future__ import annotations

from dataclasses import dataclass

from roofml.models.attention import Attention, CompressedAttention, LatentAttention
from roofml.models.feed_forward import FeedForward
from roofml.models.state_space import LinearAttention, Mamba
from roofml.models.weights import Projection, WeightFormat
from roofml.util.errors import NotSupportedError

Mixer = Attention | LatentAttention | CompressedAttention | LinearAttention | Mamba


@dataclass(frozen=True)
class Layer:
    """One decoder layer. Either part may be missing (Nemotron-H alternates them, pruned models drop some)."""

    mixer: Mixer | None
    mlp: FeedForward | None
    norms: int = 2
    """Norms over the hidden state."""
    norm_bias: bool = False
    extra: tuple[Projection, ...] = ()
    """Matrices outside of mixer and MLP (hyper-connections)."""
    small: int = 0
    """Further parameters that are no matrix."""
    formats: tuple[tuple[str, WeightFormat], ...] = ()
    """Quantized modules, by their name in the layer; all others are in the model's own type."""

    @property
    def attention(self) -> Attention:
        """The mixer, for code that knows grouped-query attention only. Raises NotSupportedError for another kind."""
        if not isinstance(self.mixer, Attention):
            raise NotSupportedError(f"layer without grouped-query attention ({type(self.mixer).__name__})")
        return self.mixer

    @property
    def feed_forward(self) -> FeedForward:
        """The MLP, for code that expects one in every layer. Raises NotSupportedError where there is none."""
        if self.mlp is None:
            raise NotSupportedError("layer without feed-forward network")
        return self.mlp

    def projections(self, hidden: int) -> tuple[Projection, ...]:
        """All weight matrices of the layer."""
        mixer = self.mixer.projections(hidden) if self.mixer else ()
        mlp = self.mlp.projections(hidden) if self.mlp else ()
        return (*mixer, *mlp, *self.extra)

    def small_parameters(self, hidden: int) -> int:
        """Parameters that are in no matrix (biases apart): norms, convolutions, sinks."""
        norms = self.norms * hidden * (2 if self.norm_bias else 1)
        mixer = self.mixer.small_parameters() if self.mixer else 0
        return norms + mixer + (self.mlp.small if self.mlp else 0) + self.small

    def parameters(self, hidden: int) -> int:
        """All parameters of the layer."""
        return sum(part.parameters for part in self.projections(hidden)) + self.small_parameters(hidden)

    def idle_parameters(self, hidden: int) -> int:
        """Parameters of the experts that one token does not use."""
        if self.mlp is None or not self.mlp.experts:
            return 0
        experts = sum(part.parameters for part in self.projections(hidden) if part.experts)
        return experts // self.mlp.experts * (self.mlp.experts - self.mlp.experts_per_token)
