"""What requests keep in the KV cache of one rank: bytes of a token, and of so many of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from roofml.models.operations import AttentionOp, MixerOp, StateOp
from roofml.util.arrays import Ints


def token_bytes(ops: Sequence[MixerOp]) -> tuple[dict[int, int], int]:
    """Bytes of a token in all layers by how many tokens back it is kept (0: for ever), and those that are kept for
    ever beside them: merged entries, and an indexer's keys."""
    near: dict[int, int] = {}
    far = 0
    for op in ops:
        if isinstance(op, AttentionOp):
            reach = op.window or op.chunk
            near[reach] = near.get(reach, 0) + op.count * op.kv_bytes
            merged = (op.kv_bytes + op.index_bytes) // op.compression if op.compression > 1 else op.index_bytes
            far += op.count * merged
    return near, far


def kept_bytes(ops: Sequence[MixerOp], tokens: Ints) -> Ints:
    """Bytes that requests of so many tokens, (requests,), keep in all layers: of a window its last tokens alone, of a
    chunk at most one, and of recurrent layers their state."""
    near, far = token_bytes(ops)
    kept = far * np.asarray(tokens, np.int64) + sum(op.count * op.state_bytes for op in ops if isinstance(op, StateOp))
    for reach, held in near.items():
        kept = kept + held * (np.minimum(tokens, reach) if reach else tokens)
    return kept
