"""Optimizers that write only what a phase allows: masked ones, stock ones that are attached, and clipping."""
