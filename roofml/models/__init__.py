"""Models: a Hugging Face `config.json` becomes layers, and layers the products, reads and writes of a step."""
