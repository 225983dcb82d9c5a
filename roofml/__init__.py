"""roofml: physics-informed calibration for LLM-inference simulators."""
