"""Circuits: their shape, wiring, forward run, tasks and training."""
