"""Operating points that others measured: a load on a deployment, and what its client saw on average."""
