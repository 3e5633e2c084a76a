"""The patterns of a knockout study: which gates are dead in each, and how many were asked for."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from boolean_nca_cc.circuits.model import Circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.circuits.tasks import TaskData
from boolean_nca_cc.errors import PatternError
from boolean_nca_cc.experiments.settings import DamageMode, KnockoutSettings
from boolean_nca_cc.knockout import greedy, greedy_order, vocabulary

__all__ = ["amounts", "check_damage", "damage_patterns"]


def amounts(settings: KnockoutSettings) -> Int[np.ndarray, " patterns"]:
    """The number of dead gates, or the strip's width, that each pattern of a study is drawn with.

    Args:
        settings: what was asked.

    Returns:
        One number a pattern: the settings' numbers in turn, or the sizes of the greedy order's beginnings.

    >>> amounts(KnockoutSettings(patterns=5, dead=(2, 8))).tolist()
    [2, 8, 2, 8, 2]
    >>> amounts(KnockoutSettings(patterns=3, dead=9, mode="greedy")).tolist()
    [3, 6, 9]
    """
    if settings.mode != DamageMode.GREEDY:
        return np.resize(np.asarray(settings.dead), settings.patterns)
    if len(settings.dead) > 1:
        return np.sort(settings.dead)
    count = max(1, min(settings.patterns, settings.dead[0]))
    return np.ceil(np.arange(1, count + 1) * settings.dead[0] / count).astype(int)


def check_damage(settings: KnockoutSettings, spec: CircuitSpec) -> None:
    """Refuses a study of more damage than the circuit has gates for.

    Args:
        settings: what was asked.
        spec: the circuit's layers.

    Raises:
        PatternError: more dead gates than hidden ones, or a strip wider than every hidden layer.

    >>> check_damage(KnockoutSettings(dead=(2, 30)), CircuitSpec(((2, 1), (4, 2), (2, 1)), arity=2))
    Traceback (most recent call last):
        ...
    boolean_nca_cc.errors.PatternError: dead gates are hidden gates, of which this circuit has 4; dead asks for 30. \
Ask for 4 or fewer (--dead).
    """
    most, what = spec.hidden_gates.size, "dead gates are hidden gates, of which this circuit has"
    if settings.mode == DamageMode.STRIP:
        most = max((n for n, _ in spec.layer_sizes[1:-1]), default=0)
        what = "a strip lies within a hidden layer, the widest of which has"
    if max(settings.dead) > most:
        raise PatternError(f"{what} {most}; dead asks for {max(settings.dead)}. Ask for {most} or fewer (--dead).")


def damage_patterns(
    settings: KnockoutSettings, circuit: Circuit, spec: CircuitSpec, data: TaskData
) -> Bool[np.ndarray, "patterns nodes"]:
    """The patterns of a study, a function of its settings and, for greedy damage, of the circuit.

    Args:
        settings: what was asked.
        circuit: the trained circuit.
        spec: its layers.
        data: the task.

    Returns:
        One mask a pattern.

    Raises:
        PatternError: patterns that cannot be drawn.

    >>> from boolean_nca_cc.experiments.settings import TrainSettings
    >>> from boolean_nca_cc.experiments.training_run import new_circuit, task_of
    >>> settings = KnockoutSettings(base=TrainSettings(task="copy", bits=2), patterns=4, dead=3)
    >>> data = task_of(settings.base)
    >>> spec, circuit = new_circuit(settings.base, n_out=2)
    >>> (~damage_patterns(settings, circuit, spec, data)).sum(axis=1).tolist()
    [3, 3, 3, 3]
    """
    check_damage(settings, spec)
    if settings.mode == DamageMode.GREEDY:
        order = greedy_order(circuit, data.x, data.y, max(settings.dead))
        sizes = jnp.asarray(amounts(settings))
        return np.asarray(jax.vmap(lambda size: greedy(spec, order, size))(sizes))
    # Pattern i has the i-th key whatever the number of dead gates: one number alone draws what it always did.
    key, asked = jax.random.key(settings.seed), amounts(settings)
    patterns = np.ones((settings.patterns, spec.n_nodes), bool)
    for amount in settings.dead:
        drawn = np.asarray(vocabulary(key, spec, settings.patterns, settings.mode.value, amount))
        patterns[asked == amount] = drawn[asked == amount]
    return patterns
