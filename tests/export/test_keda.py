"""Thresholds for Kubernetes: what is written is YAML that KEDA takes, never above what a replica holds."""

from __future__ import annotations

from typing import Any

import pytest
from commandline import read_yaml

from roofml.export.keda import Target, Threshold, scaled_object
from roofml.util.errors import InputError

THRESHOLD = Threshold(8.4999, 123.456, ("a replica holds 9.2 requests/s",))


def test_a_scaled_object_divides_both_sums_by_what_a_replica_holds() -> None:
    text = scaled_object(THRESHOLD, Target("vllm-llama", "serving", least=2, most=20))
    assert text.startswith("# a replica holds 9.2 requests/s\n")
    document = read_yaml(text)
    assert (document["apiVersion"], document["kind"]) == ("keda.sh/v1alpha1", "ScaledObject")
    spec = document["spec"]
    assert spec["scaleTargetRef"] == {"name": "vllm-llama"}
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (2, 20)
    under_way, come = spec["triggers"]
    assert {trigger["metricType"] for trigger in spec["triggers"]} == {"AverageValue"}
    assert (under_way["metadata"]["threshold"], come["metadata"]["threshold"]) == ("123", "8.49")
    assert 'vllm:num_requests_waiting{namespace="serving"}' in under_way["metadata"]["query"]


def test_an_hpa_has_the_requests_under_way() -> None:
    document = read_yaml(scaled_object(THRESHOLD, Target("vllm"), "hpa"))
    assert document["kind"] == "HorizontalPodAutoscaler"
    assert document["spec"]["metrics"][0]["pods"]["target"] == {"type": "AverageValue", "averageValue": "123"}


@pytest.mark.parametrize("value", [0.00123, 0.5, 1.0, 9.999, 10.0, 1234.5, 1e6])
def test_a_threshold_is_three_digits_and_never_above_what_is_held(value: float) -> None:
    document = read_yaml(scaled_object(Threshold(value, value, ()), Target("vllm")))
    for trigger in document["spec"]["triggers"]:
        written = float(trigger["metadata"]["threshold"])
        assert 0.99 * value <= written <= value


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"deployment": "vLLM"}, "deployment 'vLLM': expected a name of Kubernetes"),
        ({"deployment": "a: b"}, "deployment 'a: b'"),
        ({"deployment": "a", "namespace": ""}, "namespace ''"),
        ({"deployment": "a", "prometheus": "prometheus"}, "prometheus 'prometheus': expected an address"),
        ({"deployment": "a", "least": 3, "most": 2}, "replicas 3 to 2"),
        ({"deployment": "a", "least": 0, "most": 0}, "replicas 0 to 0"),
    ],
)
def test_what_kubernetes_would_refuse_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Target(**given)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_threshold_that_divides_nothing_is_refused(value: float) -> None:
    with pytest.raises(InputError, match="expected a number above 0"):
        scaled_object(Threshold(value, 1.0, ()), Target("vllm"))
