"""Knockout: patterns of dead gates, faulty tables, and which gates matter at all."""

from boolean_nca_cc.knockout.faults import faulty_logits, noisy_logits, seu_flips
from boolean_nca_cc.knockout.liveness import PrunedCircuit, functional_liveness, live_wires, prune, structural_liveness
from boolean_nca_cc.knockout.patterns import bernoulli, greedy, greedy_order, shotgun, strip, vocabulary

__all__ = [
    "PrunedCircuit",
    "bernoulli",
    "faulty_logits",
    "functional_liveness",
    "greedy",
    "greedy_order",
    "live_wires",
    "noisy_logits",
    "prune",
    "seu_flips",
    "shotgun",
    "strip",
    "structural_liveness",
    "vocabulary",
]
