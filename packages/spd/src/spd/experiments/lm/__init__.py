"""Language models: a small one that is trained here, and any that transformers loads."""
