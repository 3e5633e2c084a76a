"""The figures of the study, measured here: rows that `dredge bench` prints and claimbench judges."""
