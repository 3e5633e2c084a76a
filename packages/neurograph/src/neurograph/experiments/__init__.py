"""What the package was measured on: digits, rivals, ablations, a routing task."""
