"""BLIS's own physics and its own way of running requests: what it computes with a coefficient file that we write.

BLIS (github.com/inference-sim/inference-sim) is another model of the same machine, with its own simplifications.
This package shares nothing with roofml's native step time. It answers one question: what will BLIS compute?

model_view  how BLIS reads a `config.json`
deployment  model, GPU and parallelism, and the inputs that BLIS refuses
latency     how long an engine step takes in BLIS: a basis of times and 7 to 11 betas
replay      how BLIS runs requests through steps: integer µs, no pipelining, three alphas
equations   linear equations between measured latencies and the coefficients
fit         the alphas and betas with which BLIS is most accurate on a run
"""
