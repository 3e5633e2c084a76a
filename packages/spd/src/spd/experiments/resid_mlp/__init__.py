"""A residual network that computes more functions than it has neurons."""
