"""Ready experiments: targets, how they are trained, and how they are decomposed."""
