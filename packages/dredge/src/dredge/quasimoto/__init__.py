"""Waves and wave packets, and how they are fitted to samples. Needs the extra `inr`."""
