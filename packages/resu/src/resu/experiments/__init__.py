"""Whole experiments on data that comes with Python and scikit-learn: accuracy of every method, and a demonstration."""
