"""Whole experiments: training a circuit, and studying what knockouts do to it."""
