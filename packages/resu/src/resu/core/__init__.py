"""Masks, phases, selection, and θ: what sparse training with resurrection is made of."""
