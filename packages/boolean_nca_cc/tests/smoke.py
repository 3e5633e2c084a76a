"""Run by itself, from any directory, against the installed wheel: trains, damages, trains again."""

import jax
import numpy as np

from boolean_nca_cc.circuits.fit import fit
from boolean_nca_cc.circuits.kernels import evaluate_packed, pack_cases, unpack_cases
from boolean_nca_cc.circuits.model import gen_circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.circuits.tasks import get_task
from boolean_nca_cc.config import FitConfig

spec = CircuitSpec.default(4, 4, arity=4, hidden=2)
task = get_task("reverse", 4)
circuit = gen_circuit(jax.random.key(0), spec.layer_sizes, spec.arity)
trained = fit(circuit, task.x, task.y, FitConfig(steps=60))

alive = np.ones(spec.n_nodes, bool)
alive[np.random.default_rng(0).choice(spec.hidden_gates, 4, replace=False)] = False
repaired = fit(trained.circuit, task.x, task.y, FitConfig(steps=60), alive=alive)
outputs = unpack_cases(evaluate_packed(repaired.circuit, pack_cases(task.x), alive), task.x.shape[0])

reached = {
    "trained": float(trained.history["hard_accuracy"][-1]),
    "repaired": float(repaired.history["hard_accuracy"][-1]),
    "packed": float(np.mean(np.asarray(outputs) == np.asarray(task.y))),
}
if set(reached.values()) != {1.0}:
    raise SystemExit(f"boolean_nca_cc: hard accuracy should be 1.0 throughout; it is {reached}")
print(
    f"boolean_nca_cc: hard accuracy {reached}, damaged to {float(repaired.history['hard_accuracy'][0]):.3f} in between"
)
