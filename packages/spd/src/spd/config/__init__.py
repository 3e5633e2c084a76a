"""Settings: frozen, validated when they are built, unknown keys refused."""
