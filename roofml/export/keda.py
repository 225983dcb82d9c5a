"""Autoscaling of a deployment on Kubernetes by what one replica holds: a KEDA ScaledObject, or an HPA.

KEDA (keda.sh, v2, scaler `prometheus` with `metricType: AverageValue`) asks Prometheus for a sum over all replicas and
runs as many as that sum goes into the threshold. Two sums say how many are needed: the requests a second that come, and
the requests under way (running and waiting), which see a slow server as well. An HPA (autoscaling/v2) has the second
alone, as a metric of pods, for which a Prometheus adapter is needed. Names of metrics are vLLM's
(vllm/v1/metrics/loggers.py: `vllm:num_requests_running`, `vllm:num_requests_waiting`, `vllm:request_success_total`).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from roofml.util.errors import InputError
from roofml.util.names import shown

Kind = Literal["keda", "hpa"]
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_URL = re.compile(r"https?://[A-Za-z0-9._:/\-]{1,500}")
MOST_REPLICAS = 10_000


@dataclass(frozen=True)
class Threshold:
    """What one replica holds, under SLOs."""

    requests_per_s: float
    in_flight: float
    """Requests under way at that rate."""
    said: tuple[str, ...]
    """Where the numbers come from, a line each."""


@dataclass(frozen=True)
class Target:
    """What is scaled."""

    deployment: str
    namespace: str = "default"
    prometheus: str = "http://prometheus-server.monitoring.svc:80"
    least: int = 1
    most: int = 10

    def __post_init__(self) -> None:
        """Raise InputError, naming the field, for what Kubernetes would refuse."""
        for name in ("deployment", "namespace"):
            if not _NAME.fullmatch(getattr(self, name)):
                found = shown(getattr(self, name))
                raise InputError(f"{name} {found}: expected a name of Kubernetes: a-z, 0-9 and -, at most 63")
        if not _URL.fullmatch(self.prometheus):
            raise InputError(f"prometheus {shown(self.prometheus)}: expected an address such as http://host:9090")
        if not 0 <= self.least <= self.most <= MOST_REPLICAS or self.most < 1:
            raise InputError(
                f"replicas {self.least} to {self.most}: expected the fewest first, the most from 1 to {MOST_REPLICAS}"
            )


def scaled_object(threshold: Threshold, target: Target, kind: Kind = "keda") -> str:
    """The YAML of a ScaledObject, or of an HPA. Raises InputError for a threshold that nothing can be divided by."""
    for name in ("requests_per_s", "in_flight"):
        value = getattr(threshold, name)
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name} {value:g}: expected a number above 0")
    head = "".join(f"# {line}\n" for line in threshold.said)
    return head + (_keda(threshold, target) if kind == "keda" else _hpa(threshold, target))


def _number(value: float) -> str:
    """Three digits, rounded down: a threshold must not be more than what is held."""
    digits = 2 - math.floor(math.log10(value))
    scale = 10.0**digits
    return f"{math.floor(value * scale * (1 + 1e-12)) / scale:.{max(digits, 0)}f}"


def _keda(threshold: Threshold, target: Target) -> str:
    chosen = f'{{namespace="{target.namespace}"}}'
    under_way = f"sum(vllm:num_requests_running{chosen}) + sum(vllm:num_requests_waiting{chosen})"
    come = f"sum(rate(vllm:request_success_total{chosen}[2m]))"
    triggers = "".join(
        f"""    - type: prometheus
      metricType: AverageValue
      metadata:
        serverAddress: {target.prometheus}
        query: '{query}'
        threshold: "{_number(value)}"
"""
        for query, value in ((under_way, threshold.in_flight), (come, threshold.requests_per_s))
    )
    return f"""apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: {target.deployment}
  namespace: {target.namespace}
spec:
  scaleTargetRef:
    name: {target.deployment}
  minReplicaCount: {target.least}
  maxReplicaCount: {target.most}
  triggers:
{triggers}"""


def _hpa(threshold: Threshold, target: Target) -> str:
    return f"""apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {target.deployment}
  namespace: {target.namespace}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {target.deployment}
  minReplicas: {max(target.least, 1)}
  maxReplicas: {target.most}
  metrics:
    - type: Pods
      pods:
        metric:
          name: vllm:num_requests_running
        target:
          type: AverageValue
          averageValue: "{_number(threshold.in_flight)}"
"""
