"""Plain forms: `oracle*` are slow and right, `original*` are how the published code did it. Not for a hot path."""
