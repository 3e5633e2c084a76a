"""`update_params` before, after and ours: same results where they must be, and where they differ, how.

On gradients of the masked loss, before and after agree bit for bit when both are eager, whatever the optimizer. In one
compiled function they agree to rounding, because XLA contracts the two differently.
On other gradients the parameters of dead gates still agree, because both restore them; what differs is in the table:

====================  ==========================  ===================================================
optimizer             optimizer state             parameters of live gates
====================  ==========================  ===================================================
SGD                   none to differ              equal
SGD with momentum     dead gates' traces          equal
Adam, AdamW           dead gates' moments         equal
RMSprop               dead gates' squares         equal
Lion                  dead gates' moments         equal
Adafactor             shared row statistics       differ: rows and columns mix dead gates with live ones
clip by global norm   as the optimizer after it   differ: the norm counts the dead gates' gradients
====================  ==========================  ===================================================
"""

import inspect
from pathlib import Path
from runpy import run_path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import Array

from boolean_nca_cc.circuits.model import gen_circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.circuits.tasks import get_task
from boolean_nca_cc.circuits.train import loss_f_l4
from boolean_nca_cc.knockout import shotgun
from boolean_nca_cc.optim import preserve_dead

FORMS = run_path(str(Path(__file__).with_name("simplified_update_params.py")))["FORMS"]
MASKED = ("before", "after", "ours")
OPTIMIZERS = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9),
    "adam": optax.adam(0.1),
    "adamw": optax.adamw(0.1, weight_decay=0.1),
    "rmsprop": optax.rmsprop(0.1),
    "rmsprop_momentum": optax.rmsprop(0.1, momentum=0.9),
    "lion": optax.lion(0.01, weight_decay=0.1),
    "adafactor": optax.adafactor(0.1, min_dim_size_to_factor=2),
    "clip": optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1)),
}
MIXES_GATES = {"adafactor", "clip"}
# Three layers of gates of one shape: eager operations compile once a shape.
SPEC = CircuitSpec(((6, 1), (12, 2), (12, 2), (12, 2)), 3)
_GRAD = jax.jit(jax.grad(lambda logits, wires, x, y, mask: loss_f_l4(logits, wires, x, y, mask)[0]))


class Problem:
    """A circuit with a used optimizer: three steps without a mask, then 10 gates die."""

    def __init__(self, name: str, dead: int = 10) -> None:
        self.opt = OPTIMIZERS[name]
        self.circuit = gen_circuit(jax.random.key(0), SPEC.layer_sizes, arity=SPEC.arity)
        self.x = jnp.asarray(get_task("copy", 6).x)
        self.y = jnp.tile(self.x, 2)
        self.logits = [layer + jax.random.normal(jax.random.key(1), layer.shape) for layer in self.circuit.logits]
        self.state = self.opt.init(self.logits)
        self.mask = SPEC.to_layers(shotgun(jax.random.key(2), SPEC, dead))
        for _ in range(3):
            self.logits, self.state = FORMS["none"](self.grad(None), self.state, self.opt, self.logits)
        self.logits = list(self.logits)
        self.dead = [
            np.asarray(mask).reshape(layer.shape[:2]) == 0
            for mask, layer in zip(self.mask[1:], self.logits, strict=True)
        ]

    def grad(self, mask: list[Array] | None) -> list[Array]:
        """Gradient of the loss at the current logits."""
        return list(_GRAD(list(self.logits), self.circuit.wires, self.x, self.y, mask))


def _bits_equal(a: object, b: object) -> bool:
    leaves_a, leaves_b = jax.tree.leaves(a), jax.tree.leaves(b)
    return len(leaves_a) == len(leaves_b) and all(
        np.asarray(p).tobytes() == np.asarray(q).tobytes() for p, q in zip(leaves_a, leaves_b, strict=True)
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_before_and_after_are_bit_equal_when_eager(name: str) -> None:
    p = Problem(name)
    grad = p.grad(p.mask)
    before, after = (FORMS[form](grad, p.state, p.opt, p.logits, p.mask) for form in ("before", "after"))
    assert _bits_equal(before, after)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_before_and_after_agree_in_one_compiled_function(name: str) -> None:
    """To rounding only: XLA contracts products and sums of the two differently, and which ones depends on the CPU."""
    p = Problem(name)

    @jax.jit
    def both(*args: object) -> tuple[object, object]:
        grad, state, logits, mask = args
        return tuple(FORMS[form](grad, state, p.opt, logits, mask) for form in ("before", "after"))

    before, after = both(p.grad(p.mask), p.state, p.logits, p.mask)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    for a, start, dead in zip(after[0], p.logits, p.dead, strict=True):
        assert np.asarray(a)[dead].tobytes() == np.asarray(start)[dead].tobytes()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_ours_agrees_after_one_step(name: str) -> None:
    p = Problem(name)
    grad = p.grad(p.mask)
    after, _ = FORMS["after"](grad, p.state, p.opt, p.logits, p.mask)
    ours, _ = FORMS["ours"](grad, p.state, p.opt, p.logits, p.mask)
    for a, b in zip(after, ours, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("form", MASKED)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_dead_gates_keep_every_bit_over_steps(name: str, form: str) -> None:
    p = Problem(name)
    start = p.logits
    for _ in range(5):
        p.logits, p.state = FORMS[form](p.grad(p.mask), p.state, p.opt, p.logits, p.mask)
    for a, b, dead in zip(start, p.logits, p.dead, strict=True):
        assert np.asarray(a)[dead].tobytes() == np.asarray(b)[dead].tobytes()
        assert (np.asarray(a)[~dead] != np.asarray(b)[~dead]).any() or dead.all()


@pytest.mark.parametrize("form", ["before", "after"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_live_gates_move_exactly_as_usual(name: str, form: str) -> None:
    p = Problem(name)
    grad = p.grad(p.mask)
    usual, _ = FORMS["none"](grad, p.state, p.opt, p.logits)
    masked, _ = FORMS[form](grad, p.state, p.opt, p.logits, p.mask)
    for a, b, dead in zip(usual, masked, p.dead, strict=True):
        np.testing.assert_array_equal(np.asarray(a)[~dead], np.asarray(b)[~dead])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_on_other_gradients_only_what_the_table_names_differs(name: str) -> None:
    p = Problem(name)
    ones = [jnp.ones_like(layer) for layer in p.logits]
    before, after = (FORMS[form](ones, p.state, p.opt, p.logits, p.mask) for form in ("before", "after"))
    for a, b, start, dead in zip(before[0], after[0], p.logits, p.dead, strict=True):
        assert np.asarray(a)[dead].tobytes() == np.asarray(b)[dead].tobytes() == np.asarray(start)[dead].tobytes()
    live_equal = all(
        (np.asarray(a)[~dead] == np.asarray(b)[~dead]).all()
        for a, b, dead in zip(before[0], after[0], p.dead, strict=True)
    )
    assert live_equal is (name not in MIXES_GATES)
    assert _bits_equal(before[1], after[1]) is (name == "sgd")


def test_moments_of_dead_gates_go_on_decaying() -> None:
    """`after` keeps the parameters, not the history: 20 frozen steps leave 0.9^20 of the first moment."""
    p = Problem("adam")
    moments = [np.asarray(layer)[dead] for layer, dead in zip(p.state[0].mu, p.dead, strict=True)]
    for _ in range(20):
        p.logits, p.state = FORMS["after"](p.grad(p.mask), p.state, p.opt, p.logits, p.mask)
    for start, layer, dead in zip(moments, p.state[0].mu, p.dead, strict=True):
        np.testing.assert_allclose(np.asarray(layer)[dead], start * 0.9**20, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize(("policy", "share"), [("keep", 0.9**5), ("freeze", 1.0), ("reset", 0.0)])
def test_ours_lets_the_user_choose_what_becomes_of_the_state(policy: str, share: float) -> None:
    p = Problem("adam")
    moments = [np.asarray(layer)[dead] for layer, dead in zip(p.state[0].mu, p.dead, strict=True)]
    opt = preserve_dead(p.opt, state=policy)
    for _ in range(5):
        p.logits, p.state = FORMS["ours"](p.grad(p.mask), p.state, opt, p.logits, p.mask)
    for start, layer, dead in zip(moments, p.state[0].mu, p.dead, strict=True):
        np.testing.assert_allclose(np.asarray(layer)[dead], start * share, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_without_a_mask_every_form_is_the_plain_update(form: str) -> None:
    p = Problem("adamw")
    grad = p.grad(None)
    plain, _ = FORMS["none"](grad, p.state, p.opt, p.logits)
    found, _ = FORMS[form](grad, p.state, p.opt, p.logits, None)
    for a, b in zip(plain, found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("form", MASKED)
@pytest.mark.parametrize("dead", [0, 10_000])
def test_no_knockouts_and_more_than_there_are(form: str, dead: int) -> None:
    p = Problem("adamw", dead)
    grad = p.grad(p.mask)
    plain, _ = FORMS["none"](grad, p.state, p.opt, p.logits)
    found, _ = FORMS[form](grad, p.state, p.opt, p.logits, p.mask)
    for index, (a, b, start) in enumerate(zip(plain, found, p.logits, strict=True)):
        hidden = index < len(p.logits) - 1
        if dead and hidden:
            assert np.asarray(b).tobytes() == np.asarray(start).tobytes()
        else:
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_ours_is_a_drop_in_replacement() -> None:
    """Same parameters in the same order, same defaults, same returns."""
    ours, published = (inspect.signature(FORMS[form]) for form in ("ours", "after"))
    assert list(ours.parameters) == list(published.parameters) == ["grad", "opt_state", "opt", "logits", "gate_mask"]
    assert ours.parameters["gate_mask"].default is published.parameters["gate_mask"].default is None
    p = Problem("adam")
    results = [FORMS[form](p.grad(p.mask), p.state, p.opt, p.logits, p.mask) for form in MASKED]
    structures = {jax.tree.structure(result) for result in results}
    assert len(structures) == 1
