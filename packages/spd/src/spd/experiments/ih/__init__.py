"""Two layers of attention that learn to look up what followed a token before."""
