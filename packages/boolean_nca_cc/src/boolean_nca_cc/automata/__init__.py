"""Cellular automata made of logic circuits: every cell of a grid runs the same small circuit on its neighbourhood."""
