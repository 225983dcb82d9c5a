"""Decoders of 2025 and 2026 that differ little from others: OLMo 3, EXAONE 4, Ernie 4.5, Command A, Granite 4 ..."""

from __future__ import annotations

from roofml.models.architectures.common import Stack, attention_of, mlp_of, window_pattern
from roofml.models.architectures.fields import Fields
from roofml.models.architectures.hybrid import state_dtype_of
from roofml.models.architectures.latent import latent_attention_of
from roofml.models.feed_forward import FeedForward
from roofml.models.layer import Layer, Mixer
from roofml.models.state_space import Mamba

LONGCAT_NAMES = (
    ("num_hidden_layers", "num_layers"),
    ("intermediate_size", "ffn_hidden_size"),
    ("moe_intermediate_size", "expert_ffn_hidden_size"),
)


def every(layers: int, period: int) -> list[str]:
    """Layer types in which every `period`-th layer is full and the others have a window."""
    return ["full_attention" if (i + 1) % period == 0 else "sliding_attention" for i in range(layers)]


def olmo3(fields: Fields) -> Stack:
    """OLMo 3: as OLMo 2 (norms after the blocks, query and key norms over all heads), three layers of four windowed."""
    layers, bias = fields.layers(), fields.flag("attention_bias")
    windows = window_pattern(fields, layers, every(layers, 4))
    mlp = mlp_of(fields)
    stack = [
        Layer(attention_of(fields, bias=bias, output_bias=bias, wide_qk_norm=True, window=window), mlp)
        for window in windows
    ]
    return Stack(stack, fields.size("hidden_size"))


def exaone4(fields: Fields) -> Stack:
    """EXAONE 4: norms after the blocks, query and key norms a head; three layers of four windowed where it has one."""
    layers = fields.layers()
    windows = [0] * layers
    if fields.optional_size("sliding_window"):
        windows = window_pattern(fields, layers, every(layers, 4))
    mlp = mlp_of(fields)
    stack = [Layer(attention_of(fields, bias=False, qk_norm=True, window=window), mlp) for window in windows]
    return Stack(stack, fields.size("hidden_size"))


def cohere2(fields: Fields) -> Stack:
    """Command R7B and A: attention and MLP side by side after one norm, three layers of four windowed."""
    layers, bias = fields.layers(), fields.flag("attention_bias")
    windows = window_pattern(fields, layers, every(layers, fields.size("sliding_window_pattern", 4)))
    mlp = mlp_of(fields)
    stack = [
        Layer(attention_of(fields, bias=bias, output_bias=bias, window=window), mlp, norms=1) for window in windows
    ]
    return Stack(stack, fields.size("hidden_size"))


def muse(fields: Fields) -> Stack:
    """Muse Glimmer: Llama's layers with norms before and after each block, windowed where `layer_types` says so."""
    layers, bias = fields.layers(), fields.flag("attention_bias")
    windows = window_pattern(fields, layers, every(layers, 4))
    mlp = mlp_of(fields)
    stack = [
        Layer(attention_of(fields, bias=bias, output_bias=bias, window=window), mlp, norms=4) for window in windows
    ]
    return Stack(stack, fields.size("hidden_size"))


def ernie_moe(fields: Fields) -> Stack:
    """Ernie 4.5: dense layers at the start, then mixtures with shared experts; its router has a bias in the choice."""
    bias = fields.flag("use_bias")
    if bias:
        raise fields.refusal("use_bias", "biases")
    layers = fields.layers()
    experts = fields.size("moe_num_experts")
    width = fields.size("moe_intermediate_size")
    mixture = FeedForward(
        width,
        experts,
        fields.experts_per_token(experts, "moe_k", "moe_topk"),
        shared_width=width * fields.count("moe_num_shared_experts"),
        small=experts if fields.flag("moe_use_aux_free", True) else 0,
        field="moe_intermediate_size",
        shared_field="moe_intermediate_size",
    )
    dense, attention = mlp_of(fields), attention_of(fields, bias=False)
    first, interval = fields.count("moe_layer_start_index", 1), fields.size("moe_layer_interval", 1)
    last = fields.config.get("moe_layer_end_index", -1)
    end = layers if last in (None, -1) else fields.count("moe_layer_end_index") + 1
    sparse = [first <= i < end and (i + 1) % interval == 0 for i in range(layers)]
    return Stack([Layer(attention, mixture if moe else dense) for moe in sparse], fields.size("hidden_size"))


def granite_hybrid(fields: Fields) -> Stack:
    """Granite 4: Mamba-2 and attention layers, each with a mixture beside a shared MLP, or with that MLP alone."""
    layers, hidden = fields.layers(), fields.size("hidden_size")
    kinds = fields.words("layer_types", layers, {"mamba": 0, "attention": 1})
    if kinds is None:
        raise fields.error("layer_types", f"a list of {layers} layer types")
    heads = fields.size("mamba_n_heads")
    bias = fields.flag("attention_bias")
    mixers: dict[str, Mixer] = {"attention": attention_of(fields, bias=bias, output_bias=bias)}
    if "mamba" in kinds:
        mixers["mamba"] = Mamba(
            heads,
            fields.size("mamba_d_head", fields.size("mamba_expand", 2) * hidden // heads),
            fields.size("mamba_n_groups", 1),
            fields.size("mamba_d_state"),
            fields.size("mamba_d_conv"),
            state_dtype_of(fields, "mamba_ssm_cache_dtype", fields.dtype),
            conv_bias=fields.flag("mamba_conv_bias", True),
            bias=fields.flag("mamba_proj_bias"),
        )
    shared, experts = fields.size("shared_intermediate_size"), fields.count("num_local_experts")
    mlp = FeedForward(shared, field="shared_intermediate_size")
    if experts:
        mlp = FeedForward(
            fields.size("intermediate_size"), experts, fields.experts_per_token(experts), shared_width=shared
        )
    return Stack([Layer(mixers[kind], mlp) for kind in kinds], hidden)


def longcat_flash(fields: Fields) -> Stack:
    """LongCat-Flash: a layer is two latent attentions and two MLPs, and a mixture beside the second pair.

    Some of the experts that a token chooses do nothing (`zero_expert_num`): of k chosen ones the share that works is
    that of real experts, on average.
    """
    experts, idle = fields.size("n_routed_experts"), fields.count("zero_expert_num")
    chosen = fields.experts_per_token(experts, "moe_topk")
    working = max(1, round(chosen * experts / (experts + idle)))
    if idle:
        fields.assumed.append(f"experts per token = {working} of {chosen} chosen (the mean; {idle} do nothing)")
    dense, attention, hidden = mlp_of(fields), latent_attention_of(fields), fields.size("hidden_size")
    mixture = FeedForward(
        fields.size("moe_intermediate_size"),
        experts,
        working,
        shared_width=dense.width,
        small=idle * hidden + experts + idle,
        field="moe_intermediate_size",
        shared_field="intermediate_size",
    )
    return Stack([Layer(attention, mlp) for _ in range(fields.layers()) for mlp in (dense, mixture)], hidden)
