"""Names that clusters give: the release in a container image's tag, and the GPU that a node is chosen by."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import cast

_RELEASE = re.compile(r"(?:^|/)vllm/vllm-openai(?:-\w+)?:v?(\d+\.\d+(?:\.\d+)?(?:\.?(?:rc|post|dev)\d+)?)(?:[-+@].*)?")
_ROCM = re.compile(r"(?:^|/)rocm/vllm(?:-dev)?:.*?vllm_v?(\d+\.\d+\.\d+).*")

GPU_LABELS = (
    "cloud.google.com/gke-accelerator",
    "nvidia.com/gpu.product",
    "amd.com/gpu.product-name",
    "gpu.nvidia.com/model",
    "gpu.nvidia.com/class",
    "karpenter.k8s.aws/instance-gpu-name",
    "run.ai/gpu.product",
    "accelerator",
    "gpu-type",
    "gpu",
)
"""Labels of nodes whose value is the name of their GPU."""


def version_of_image(image: str) -> str | None:
    """The release of vLLM that an image's tag says. None for `latest`, and for images with a numbering of their own.

    Only vLLM's own images (`vllm/vllm-openai:v0.11.0`) and AMD's say it: NVIDIA's `nvcr.io/nvidia/vllm:25.09-py3` and
    LMCache's `lmcache/vllm-openai:v0.3.14` count their own releases.
    """
    found = _RELEASE.search(image.strip()) or _ROCM.search(image.strip())
    return found[1] if found else None


def gpus_of(document: object) -> Iterator[str]:
    """Every GPU that a manifest chooses nodes by: labels of selectors and of affinities."""
    if isinstance(document, Mapping):
        mapping = cast("Mapping[object, object]", document)
        label, values = mapping.get("key"), mapping.get("values")
        if label in GPU_LABELS and isinstance(values, list) and mapping.get("operator", "In") == "In":
            yield from (_gpu(value) for value in cast("list[object]", values) if isinstance(value, str))
        for key, value in mapping.items():
            if key == "nodeSelector" and isinstance(value, Mapping):
                selector = cast("Mapping[object, object]", value)
                yield from (
                    _gpu(chosen) for name, chosen in selector.items() if name in GPU_LABELS and isinstance(chosen, str)
                )
            else:
                yield from gpus_of(value)
    elif isinstance(document, list):
        for item in cast("list[object]", document):
            yield from gpus_of(item)


def _gpu(label: str) -> str:
    """A node's label as a name of a GPU: GKE's `mega` machines and CoreWeave's `NVLINK` have the ordinary card."""
    return re.sub(r"[-_](?:mega|nvlink|SHARED)(?=[-_]|$)", "", label, flags=re.I)
