"""Meta-learning: rules that configure and mend circuits, trained on a pool of them. Needs the extra `models`."""
