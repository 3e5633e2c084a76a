"""The decomposed network and its parts."""
