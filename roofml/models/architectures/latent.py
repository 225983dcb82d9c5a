"""Models with latent attention: DeepSeek V2, V3, V3.2, Kimi K2, GLM-5, Kimi Linear; and DeepSeek V4."""

from __future__ import annotations

from roofml.models.architectures.common import Stack, mlp_of
from roofml.models.architectures.fields import Fields
from roofml.models.architectures.mixture import experts_of
from roofml.models.attention import CompressedAttention, LatentAttention, SparseIndexer
from roofml.models.feed_forward import FeedForward
from roofml.models.layer import Layer
from roofml.models.state_space import LinearAttention
from roofml.models.weights import Projection
from roofml.util.errors import InputError


def latent_attention_of(fields: Fields, *, sparse: bool = False) -> LatentAttention:
    """Latent attention from DeepSeek's field names, with the indexer if `sparse`."""
    query_rank = fields.optional_size("q_lora_rank")
    if sparse and not query_rank:
        raise fields.error("q_lora_rank", "a positive integer (the indexer reads the compressed query)")
    value_dim = fields.size("v_head_dim")
    return LatentAttention(
        heads=fields.size("num_attention_heads"),
        kv_rank=fields.size("kv_lora_rank"),
        nope_dim=fields.size("qk_nope_head_dim"),
        rope_dim=fields.count("qk_rope_head_dim") if fields.flag("mla_use_nope") else fields.size("qk_rope_head_dim"),
        value_dim=value_dim,
        query_rank=query_rank,
        bias=fields.flag("attention_bias"),
        output_gate=value_dim if fields.flag("mla_use_output_gate") else 0,
        indexer=indexer_of(fields) if sparse else None,
    )


def indexer_of(fields: Fields) -> SparseIndexer:
    """The lightning indexer of DeepSeek V3.2, V4 and GLM-5."""
    return SparseIndexer(fields.size("index_n_heads"), fields.size("index_head_dim"), fields.size("index_topk"))


def mixtures_of(fields: Fields, layers: int) -> list[FeedForward]:
    """The MLP of each layer: `first_k_dense_replace` dense ones, then mixtures with shared experts."""
    if fields.count("moe_layer_freq", 1) != 1:
        raise fields.refusal("moe_layer_freq", "a mixture in some layers only")
    shared = fields.count(fields.given("n_shared_experts", "num_shared_experts"))
    mixture = experts_of(
        fields,
        "moe_intermediate_size",
        "n_routed_experts",
        "num_experts",
        "num_routed_experts",
        shared="moe_intermediate_size",
        shared_width=shared * fields.size("moe_intermediate_size"),
        latent=fields.optional_size("routed_expert_hidden_size"),
    )
    first = fields.count("first_k_dense_replace")
    dense = mlp_of(fields) if first else mixture
    return [dense if i < first else mixture for i in range(layers)]


def deepseek(fields: Fields, *, sparse: bool = False) -> Stack:
    """DeepSeek V2 and V3, Kimi K2; with the sparse indexer DeepSeek V3.2 and GLM-5."""
    attention = latent_attention_of(fields, sparse=sparse)
    layers = fields.layers()
    return Stack([Layer(attention, mlp) for mlp in mixtures_of(fields, layers)], fields.size("hidden_size"))


def kimi_linear(fields: Fields) -> Stack:
    """Kimi Linear and K3: three layers of delta attention to one of latent attention without rotation."""
    layers = fields.layers()
    kinds = fields.inner("linear_attn_config")
    full, linear = kinds.numbers("full_attn_layers") or [], kinds.numbers("kda_layers") or []
    if sorted(full + linear) != list(range(1, layers + 1)):
        raise InputError(f"{fields.name}: linear_attn_config: expected layers 1 to {layers} each once in its lists")
    if fields.optional_size("attn_res_block_size"):
        fields.assumed.append("attn_res_block_size: choosing among earlier blocks' outputs is left out (its class)")
    latent = latent_attention_of(fields)
    delta = delta_attention_of(fields, kinds)
    mlps = mixtures_of(fields, layers)
    stack = [Layer(latent if i + 1 in full else delta, mlp) for i, mlp in enumerate(mlps)]
    return Stack(stack, fields.size("hidden_size"))


def delta_attention_of(fields: Fields, kinds: Fields) -> LinearAttention:
    """Kimi's delta attention, with its sizes from `linear_attn_config`."""
    heads, size = kinds.size("num_heads"), kinds.size("head_dim")
    dtype = fields.word("mamba_ssm_dtype", {"float32": 1, "bfloat16": 1, "float16": 1}, "float32")
    kernel = kinds.size("short_conv_kernel_size")
    full_gate = kinds.flag("use_full_rank_gate")
    return LinearAttention(heads, heads, size, size, kernel, dtype, gate_rank=size, full_gate=full_gate)


def glm5_next(fields: Fields) -> Stack:
    """GLM-5.3-Flash: delta attention, every fourth layer sparse latent attention; hyper-connections around each block.

    Keys of the indexer are pooled (`index_kpool`): reading as many as there are tokens is an upper bound.
    """
    layers, hidden = fields.layers(), fields.size("hidden_size")
    kinds = fields.words("layer_types", layers, {"linear_attention": 0, "deepseek_sparse_attention": 1})
    if kinds is None:
        raise fields.error("layer_types", f"a list of {layers} layer types")
    if fields.optional_size("index_kpool") > 1:
        fields.assumed.append(
            "index_kpool = 1 (pooled keys of the indexer are not modelled: more is read than in fact)"
        )
    delta, sparse = (
        delta_attention_of(fields, fields.inner("linear_attn_config")),
        latent_attention_of(fields, sparse=True),
    )
    connections, small = hyper_connections(fields)
    stack = [
        Layer(delta if kind == "linear_attention" else sparse, mlp, extra=connections, small=small)
        for kind, mlp in zip(kinds, mixtures_of(fields, layers), strict=True)
    ]
    return Stack(stack, hidden + hyper_head(fields))


def hyper_connections(fields: Fields) -> tuple[tuple[Projection, ...], int]:
    """The matrices that mix the `hc_mult` residual streams around attention and MLP, and their other parameters."""
    streams = fields.size("hc_mult")
    mixes = (2 + streams) * streams
    width = streams * fields.size("hidden_size")
    parts = ("attn", "ffn")
    mixers = tuple(
        Projection(f"{part}_hc", f"{part}_mix", mixes, width, "replicated", quantizable=False) for part in parts
    )
    return mixers, 2 * (mixes + 3)


def hyper_head(fields: Fields) -> int:
    """Parameters that merge the residual streams after the last layer."""
    streams = fields.size("hc_mult")
    return streams * streams * fields.size("hidden_size") + streams + 1


COMPRESSION = {0: "sliding window only", 4: "chosen by the indexer", 128: "all read"}
"""`compress_ratios` of DeepSeek V4 that are modelled."""


def deepseek_v4(fields: Fields) -> Stack:
    """DeepSeek V4: windowed shared-KV attention over merged entries, hyper-connections around each block."""
    layers, hidden = fields.layers(), fields.size("hidden_size")
    ratios = fields.numbers("compress_ratios", layers)
    if ratios is None:
        raise fields.error("compress_ratios", f"a list of {layers} compression ratios")
    for ratio in ratios[:layers]:
        if ratio not in COMPRESSION:
            raise fields.refusal("compress_ratios", f"ratio {ratio}")
    indexer = indexer_of(fields)
    groups = fields.size("o_groups")
    heads = fields.size("num_attention_heads")
    if heads % groups:
        raise InputError(f"{fields.name}: num_attention_heads {heads} is no multiple of o_groups {groups}")
    if fields.size("num_key_value_heads") != 1:
        raise fields.refusal("num_key_value_heads", "more than one shared KV head")
    mixers = {
        ratio: CompressedAttention(
            heads=heads,
            head_dim=fields.size("head_dim"),
            query_rank=fields.size("q_lora_rank"),
            output_groups=groups,
            output_rank=fields.size("o_lora_rank"),
            window=fields.size("sliding_window"),
            ratio=ratio,
            indexer=indexer if ratio == 4 else None,
        )
        for ratio in COMPRESSION
    }
    width = fields.size("moe_intermediate_size")
    shared = fields.count("n_shared_experts", 1)
    mixture = experts_of(
        fields,
        "moe_intermediate_size",
        "n_routed_experts",
        shared="moe_intermediate_size",
        shared_width=shared * width,
    )
    connections, small = hyper_connections(fields)
    stack = [Layer(mixers[ratio], mixture, extra=connections, small=small) for ratio in ratios[:layers]]
    return Stack(stack, hidden + hyper_head(fields))


def deepseek_v41(fields: Fields) -> Stack:
    """DeepSeek V4.1: refused, for no public description says what its n-gram tables and shared caches cost."""
    for field in ("engram_layer_ids", "kv_source_layer_ids", "candidate_source_layer_id"):
        fields.refuse(field)
    return deepseek_v4(fields)
