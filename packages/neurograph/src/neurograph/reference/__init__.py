"""Plain forms that fast ones are held against.

The oracle is slow and right, `original` is how the published code did it.
"""
