from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boolean_nca_cc.circuits.kernels import evaluate_packed, pack_cases, unpack_cases
from boolean_nca_cc.circuits.model import run_circuit
from boolean_nca_cc.errors import MaskError, TaskError
from boolean_nca_cc.reference import oracle

COUNTS = (1, 31, 32, 33, 256)
run = jax.jit(run_circuit, static_argnames="hard")


@pytest.mark.parametrize("cases", COUNTS)
def test_packing_is_a_bijection_on_cases(cases: int) -> None:
    bits = np.random.default_rng(cases).integers(0, 2, (cases, 3))
    words = pack_cases(bits)
    assert words.shape == (3, -(-cases // 32))
    by_hand = [sum(int(bit) << place for place, bit in enumerate(bits[:32, node])) for node in range(3)]
    assert np.asarray(words)[:, 0].tolist() == by_hand
    assert np.array_equal(unpack_cases(words, cases), bits.astype(bool))


@pytest.mark.parametrize("cases", COUNTS)
@given(seed=st.integers(0, 10_000), dead=st.sampled_from([0.0, 0.3]))
def test_packed_hard_soft_and_addressed_runs_are_one(make_case: Callable, cases: int, seed: int, dead: float) -> None:
    case = make_case(seed, 1, cases=cases, dead=dead, bits=True)
    # At logits of +-30 the soft circuit is the hard one: sigmoid(30) rounds to 1, sigmoid(-30) is below 1e-13.
    logits = [np.where(layer > 0, np.float32(30), np.float32(-30)) for layer in case.logits]
    packed = unpack_cases(evaluate_packed((case.wires, logits), pack_cases(case.x), case.alive), cases)
    hard = run(logits, case.wires, case.x, case.gate_mask, hard=True)[-1]
    soft = run(logits, case.wires, case.x, case.gate_mask)[-1]
    addressed = oracle.evaluate_by_address(logits, case.wires, case.x.astype(bool), case.alive)
    assert np.array_equal(packed, addressed)
    assert np.array_equal(hard, addressed.astype(np.float32))
    assert np.array_equal(np.round(soft), addressed.astype(np.float32))
    np.testing.assert_allclose(soft, hard, atol=1e-11)


def test_all_alive_is_no_mask(make_case: Callable) -> None:
    case = make_case(5, 1, cases=33, dead=0.0, bits=True)
    words = pack_cases(case.x)
    masked = evaluate_packed((case.wires, case.logits), words, case.alive)
    assert np.array_equal(evaluate_packed((case.wires, case.logits), words), masked)


def test_what_a_dead_gate_holds_is_never_read(make_case: Callable) -> None:
    case = make_case(11, 1, cases=40, bits=True)
    poisoned = [
        np.where(mask.reshape(*layer.shape[:2], 1) == 0, np.nan, layer).astype(np.float32)
        for mask, layer in zip(case.gate_mask[1:], case.logits, strict=True)
    ]
    words = pack_cases(case.x)
    clean = evaluate_packed((case.wires, case.logits), words, case.alive)
    assert np.array_equal(evaluate_packed((case.wires, poisoned), words, case.alive), clean)


def test_bad_input_is_refused(make_case: Callable) -> None:
    case = make_case(0, 0, bits=True)
    with pytest.raises(TaskError, match="there must be at least one case"):
        pack_cases(np.zeros((0, 3)))
    with pytest.raises(TaskError, match=r"from 1 to the 32 that 1 word\(s\) hold; it is 33"):
        unpack_cases(jnp.zeros((2, 1), jnp.uint32), 33)
    with pytest.raises(MaskError, match=r"over all 9 nodes \(3 input \+ 6 gates\)"):
        evaluate_packed((case.wires, case.logits), pack_cases(case.x), np.ones(4, bool))
