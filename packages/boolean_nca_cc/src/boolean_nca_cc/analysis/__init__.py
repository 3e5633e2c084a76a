"""Analysis: which gates matter, what the worst damage costs, how far two configurations of a circuit are apart."""

from boolean_nca_cc.analysis.accuracy import accuracy_by_output
from boolean_nca_cc.analysis.criticality import Criticality, criticality
from boolean_nca_cc.analysis.hamming import HammingDistance, hamming_distance
from boolean_nca_cc.analysis.layers import LayerLiveness, liveness_by_layer
from boolean_nca_cc.analysis.worst_damage import WorstDamage, worst_damage

__all__ = [
    "Criticality",
    "HammingDistance",
    "LayerLiveness",
    "WorstDamage",
    "accuracy_by_output",
    "criticality",
    "hamming_distance",
    "liveness_by_layer",
    "worst_damage",
]
