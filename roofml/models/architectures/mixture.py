"""Mixtures of experts behind grouped-query attention: uniform, interleaved, with dense first layers, shared experts."""

from __future__ import annotations

from roofml.models.architectures.common import Stack, attention_of, head_dim_of, heads_of, mlp_of, window_pattern
from roofml.models.architectures.fields import Fields
from roofml.models.attention import Attention
from roofml.models.feed_forward import FeedForward
from roofml.models.layer import Layer


def experts_of(
    fields: Fields,
    width: str,
    *experts: str,
    shared: str = "",
    shared_width: int = 0,
    gated: bool = True,
    bias: bool = False,
    router_bias: bool = False,
    shared_gate: bool = False,
    latent: int = 0,
) -> FeedForward:
    """A mixture: the field `width` gives the size of an expert, the first of `experts` in the config their number."""
    field = fields.given(*experts)
    number = fields.size(field)
    return FeedForward(
        fields.size(width),
        number,
        fields.experts_per_token(number, "num_experts_per_tok", "num_experts_per_token", "experts_per_token"),
        shared_width=shared_width,
        gated=gated,
        bias=bias,
        router_bias=router_bias,
        shared_gate=shared_gate,
        latent=latent,
        field=width,
        shared_field=shared or width,
    )


def uniform(
    fields: Fields, width: str = "intermediate_size", *, experts: str = "num_local_experts", wide_qk_norm: bool = False
) -> Stack:
    """The same mixture in every layer: Mixtral, OLMoE, MiniMax-M2."""
    fields.refuse("shared_intermediate_size", 0)
    bias = fields.flag("attention_bias")
    window = fields.optional_size("sliding_window")
    wide = fields.flag("use_qk_norm", True) if wide_qk_norm else False
    attention = attention_of(fields, bias=bias, output_bias=bias, wide_qk_norm=wide, window=window)
    layer = Layer(attention, experts_of(fields, width, experts))
    return Stack([layer] * fields.layers(), fields.size("hidden_size"))


def sparse_steps(fields: Fields, layers: int) -> list[bool]:
    """Which layers of a Qwen model are mixtures: every `decoder_sparse_step`-th that is not in `mlp_only_layers`."""
    dense = fields.numbers("mlp_only_layers") or []
    step = fields.size("decoder_sparse_step", 1)
    return [i not in dense and (i + 1) % step == 0 for i in range(layers)]


def qwen_experts(fields: Fields, *, shared: bool) -> FeedForward:
    """Qwen's mixture; with a shared expert, whose output a gate scales."""
    width = fields.size("shared_expert_intermediate_size") if shared else 0
    return experts_of(
        fields,
        "moe_intermediate_size",
        "num_experts",
        shared="shared_expert_intermediate_size",
        shared_width=width,
        shared_gate=shared,
    )


def qwen(fields: Fields, *, shared: bool = False, qkv_bias: bool | None = None, qk_norm: bool = True) -> Stack:
    """Qwen2-MoE and Qwen3-MoE."""
    if fields.flag("use_sliding_window"):
        raise fields.refusal("use_sliding_window", "a window in this architecture")
    layers = fields.layers()
    bias = fields.flag("attention_bias") if qkv_bias is None else qkv_bias
    attention = attention_of(fields, bias=bias, output_bias=bias if qkv_bias is None else False, qk_norm=qk_norm)
    sparse = sparse_steps(fields, layers)
    mixture = qwen_experts(fields, shared=shared)
    dense = mixture if all(sparse) else mlp_of(fields)
    return Stack([Layer(attention, mixture if s else dense) for s in sparse], fields.size("hidden_size"))


def glm4(fields: Fields) -> Stack:
    """GLM-4.5: dense first layers, then a mixture with shared experts of the same width."""
    layers = fields.layers()
    attention = attention_of(fields, bias=fields.flag("attention_bias"), qk_norm=fields.flag("use_qk_norm"))
    width = fields.size("moe_intermediate_size") * fields.count("n_shared_experts", 1)
    mixture = experts_of(
        fields, "moe_intermediate_size", "n_routed_experts", shared="moe_intermediate_size", shared_width=width
    )
    first = fields.count("first_k_dense_replace", 1)
    dense = mlp_of(fields) if first else mixture
    return Stack([Layer(attention, dense if i < first else mixture) for i in range(layers)], fields.size("hidden_size"))


def gpt_oss(fields: Fields) -> Stack:
    """GPT-OSS: every other layer in a window, a learned sink a head, biases on attention, router and experts."""
    layers = fields.layers()
    default = ["full_attention" if (i + 1) % 2 == 0 else "sliding_attention" for i in range(layers)]
    windows = window_pattern(fields, layers, default)
    bias = fields.flag("attention_bias", True)
    mixture = experts_of(fields, "intermediate_size", "num_local_experts", bias=True, router_bias=True)
    stack = [
        Layer(attention_of(fields, bias=bias, output_bias=bias, sinks=True, window=window), mixture)
        for window in windows
    ]
    return Stack(stack, fields.size("hidden_size"))


def llama4(fields: Fields) -> Stack:
    """Llama 4: every `interleave_moe_layer_step`-th layer a mixture with a shared expert, the rest dense.

    Layers that rotate positions see chunks of `attention_chunk_size`; those without rotation (0 in `no_rope_layers`,
    every fourth by default) see everything.
    """
    layers = fields.layers()
    bias = fields.flag("attention_bias")
    chunk = fields.optional_size("attention_chunk_size")
    period = fields.size("no_rope_layer_interval", 4)
    rotated = fields.numbers("no_rope_layers") or [int((i + 1) % period != 0) for i in range(layers)]
    if len(rotated) < layers:
        raise fields.error("no_rope_layers", f"a list of {layers} numbers")
    step = fields.size("interleave_moe_layer_step", 1)
    moe_layers = fields.numbers("moe_layers")
    sparse = moe_layers if moe_layers is not None else list(range(step - 1, layers, step))
    mixture = experts_of(
        fields,
        "intermediate_size",
        "num_local_experts",
        shared="intermediate_size",
        shared_width=fields.size("intermediate_size"),
    )
    dense = mixture if len(set(sparse)) >= layers else mlp_of(fields, "intermediate_size_mlp")
    stack = [
        Layer(
            attention_of(fields, bias=bias, output_bias=bias, chunk=chunk if rotated[i] else 0),
            mixture if i in sparse else dense,
        )
        for i in range(layers)
    ]
    return Stack(stack, fields.size("hidden_size"))


def mimo_v2(fields: Fields) -> Stack:
    """MiMo-V2-Flash: five windowed layers to a full one, each kind with its own heads; values narrower than keys."""
    layers = fields.layers()
    pattern = fields.numbers("hybrid_layer_pattern", layers)
    if pattern is None:
        raise fields.error("hybrid_layer_pattern", f"a list of {layers} numbers, 1 for a windowed layer")
    sparse = fields.numbers("moe_layer_freq", layers)
    if sparse is None:
        raise fields.error("moe_layer_freq", f"a list of {layers} numbers, 1 for a mixture")
    heads, kv_heads = heads_of(fields)
    bias = fields.flag("attention_bias")
    full = Attention(
        heads,
        kv_heads,
        head_dim_of(fields),
        bias=bias,
        value_dim=fields.size("v_head_dim"),
        sinks=fields.flag("add_full_attention_sink_bias"),
    )
    local_heads, local_kv_heads = heads_of(fields, "swa_num_attention_heads", "swa_num_key_value_heads")
    local = Attention(
        local_heads,
        local_kv_heads,
        fields.size("swa_head_dim"),
        bias=bias,
        value_dim=fields.size("swa_v_head_dim"),
        window=fields.size("sliding_window"),
        sinks=fields.flag("add_swa_attention_sink_bias"),
    )
    shared = fields.count("n_shared_experts")
    if shared:
        raise fields.refusal("n_shared_experts", str(shared))
    mixture = experts_of(fields, "moe_intermediate_size", "n_routed_experts")
    dense = mlp_of(fields)
    return Stack(
        [Layer(local if pattern[i] else full, mixture if sparse[i] else dense) for i in range(layers)],
        fields.size("hidden_size"),
    )


def step3(fields: Fields) -> Stack:
    """Step 3.5/3.7: windowed and full layers, a gate per head on the attention output, dense first layers.

    `attention_other_setting` gives windowed layers other numbers of heads.
    """
    layers = fields.layers()
    windows = window_pattern(fields, layers, ["full_attention"] * layers)
    heads, kv_heads = heads_of(fields)
    local_heads, local_kv_heads = heads, kv_heads
    if fields.config.get("attention_other_setting") is not None:
        local = fields.inner("attention_other_setting")
        local_heads = local.size("num_attention_heads", heads)
        local_kv_heads = local.size("num_attention_groups", kv_heads)
    size = head_dim_of(fields)
    shared = fields.size("share_expert_dim")
    mixture = experts_of(
        fields,
        "moe_intermediate_size",
        "n_routed_experts",
        "num_experts",
        "moe_num_experts",
        shared="share_expert_dim",
        shared_width=shared,
    )
    first = fields.count("first_k_dense_replace", 3)
    dense = mlp_of(fields)
    stack = [
        Layer(
            Attention(
                local_heads if window else heads,
                local_kv_heads if window else kv_heads,
                size,
                qk_norm=True,
                window=window,
                output_gate=1,
            ),
            dense if i < first else mixture,
        )
        for i, window in enumerate(windows)
    ]
    return Stack(stack, fields.size("hidden_size"))
