"""Texts: their ids, their vectors, where they are kept and how they are found."""
