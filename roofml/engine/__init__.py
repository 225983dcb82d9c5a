"""Engine: vLLM's scheduler and KV cache, compiled: requests and step times become latencies and a schedule."""
