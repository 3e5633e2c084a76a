"""The toy model of superposition."""
