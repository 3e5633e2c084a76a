"""Training in cycles: pruned weights compete to come back."""
