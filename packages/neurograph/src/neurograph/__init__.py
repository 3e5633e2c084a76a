"""A graph network whose only trainable state is integer phase and magnitude indices.

`neurograph.model` builds a network, `neurograph.train.trainer` trains it, `neurograph.classifier` is its scikit-learn
face, and `neurograph.core` holds tables, graph, engine and radiation.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
