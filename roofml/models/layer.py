"""Layer: one decoder layer, a mixer and a feed-forward network with their norms."""

from __future__ import annotations

from dataclasses import dataclass

from roofml.models.attention import Attention, CompressedAttention, LatentAttention
from roofml.models.feed_forward import FeedForward
from roofml.models.state_space import LinearAttention, Mamba
from roofml.models.weights import Projection, WeightFormat

Mixer = Attention | LatentAttention | CompressedAttention | LinearAttention | Mamba


@dataclass(frozen=True)
class Layer:
    """One decoder layer. Either part may be missing (Nemotron-H alternates them, pruned models drop some)."""

    mixer: Mixer | None
    mlp: FeedForward | None
    norms: int = 2
    """Number of norms over the hidden state."""
    norm_bias: bool = False
    extra: tuple[Projection, ...] = ()
    """Matrices outside of mixer and MLP (hyper-connections)."""
    small: int = 0
    """Number of further parameters, which belong to no matrix."""
    formats: tuple[tuple[str, WeightFormat], ...] = ()
    """(name in the layer, format) of each quantized module; all others are in the model's own type."""

    def projections(self, hidden: int) -> tuple[Projection, ...]:
        """All weight matrices of the layer."""
        mixer = self.mixer.projections(hidden) if self.mixer else ()
        mlp = self.mlp.projections(hidden) if self.mlp else ()
        return (*mixer, *mlp, *self.extra)

    def small_parameters(self, hidden: int) -> int:
        """Parameters outside of matrices and their biases: norms, convolutions, sinks."""
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
