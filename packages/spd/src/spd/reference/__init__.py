"""Plain forms kept for proof and comparison; nothing on a hot path imports them."""
