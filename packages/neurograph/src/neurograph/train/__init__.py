"""Training: credit, accumulation, the loop, and the published context."""
