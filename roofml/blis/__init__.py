"""BLIS's own physics and way of running: what a coefficient file from us will meet there.

BLIS (github.com/inference-sim/inference-sim) is another model of the same machine, with its own simplifications.
Nothing here is shared with roofml's native step time; everything answers one question: what will BLIS compute?

model_view  how BLIS reads a `config.json`
steptime    what an engine step takes there: a basis of times and 7 to 11 betas
replay      how it runs requests through steps: integer µs, no pipelining, three alphas
fit         the alphas and betas with which it is right on a run
"""
