"""Modules that carry a mask and θ of their own."""
