"""Hold performance claims to account."""
