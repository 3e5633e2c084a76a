"""Run by itself, from any directory, against the installed wheel: a circuit learns to add, is damaged and retrained."""

import jax

import boolean_nca_cc
from boolean_nca_cc.circuits.fit import fit
from boolean_nca_cc.circuits.model import gen_circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.circuits.tasks import get_task
from boolean_nca_cc.config import FitConfig
from boolean_nca_cc.knockout import shotgun

task = get_task("add", 6)
spec = CircuitSpec.default(task.x.shape[1], task.y.shape[1])
circuit = gen_circuit(jax.random.key(0), spec.layer_sizes, spec.arity)
trained = fit(circuit, task.x, task.y, FitConfig(steps=100))
exact = float(trained.history["hard_accuracy"][-1])
if exact != 1.0:
    raise SystemExit(f"a circuit learns to add two three-bit numbers exactly; its hard accuracy is {exact}")

alive = shotgun(jax.random.key(1), spec, 5)
repaired = fit(trained.circuit, task.x, task.y, FitConfig(steps=50), alive=alive).history["hard_accuracy"]
if not repaired[-1] >= repaired[0]:
    raise SystemExit(f"retraining does not hurt a damaged circuit; hard accuracy went {repaired[0]} to {repaired[-1]}")
before, after = float(repaired[0]), float(repaired[-1])
print(f"boolean_nca_cc {boolean_nca_cc.__version__}: adds exactly; 5 gates dead, {before:.3f} to {after:.3f}")
