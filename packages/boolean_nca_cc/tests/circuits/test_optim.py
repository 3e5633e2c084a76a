from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from pydantic import ValidationError

from boolean_nca_cc.circuits.train import update_params
from boolean_nca_cc.config import FitConfig, OptimizerConfig
from boolean_nca_cc.errors import ConfigError
from boolean_nca_cc.optim import make_optimizer, preserve_dead
from boolean_nca_cc.reference.original import update_params_after

NAMES = ("sgd", "adam", "adamw", "rmsprop", "lion", "adafactor")
MASK = [jnp.ones(2), jnp.array([1.0, 0.0, 0.5, 1.0])]
DEAD = np.array([False, True, False, False]).reshape(2, 2)
RNG = np.random.default_rng(0)
LOGITS = [jnp.asarray(RNG.normal(size=(2, 2, 4)), jnp.float32)]
GRADS = [[jnp.asarray(RNG.normal(size=(2, 2, 4)), jnp.float32)] for _ in range(4)]
MASKED_GRADS = [[jnp.where(jnp.asarray(DEAD)[..., None], 0, g[0])] for g in GRADS]


def trained(opt: optax.GradientTransformation) -> tuple[list[jax.Array], optax.OptState]:
    """Parameters and state with a past: three steps with every gate alive."""
    update = jax.jit(opt.update)
    logits, state = LOGITS, opt.init(LOGITS)
    for grad in GRADS[:3]:
        updates, state = update(grad, state, logits)
        logits = optax.apply_updates(logits, updates)
    return logits, state


def config(name: str, **changes: object) -> OptimizerConfig:
    return OptimizerConfig.model_validate({"name": name, "learning_rate": 0.1, **changes})


MOVES_DEAD_GATES = {
    # optimiser: does a dead gate move on its zero gradient, by the past alone or by weight decay
    "sgd": (config("sgd"), False),
    "sgd with momentum": (config("sgd", momentum=0.9), True),
    "adam": (config("adam"), True),
    "adamw": (config("adamw"), True),
    "rmsprop": (config("rmsprop"), False),
    "rmsprop with momentum": (config("rmsprop", momentum=0.9), True),
    "lion": (config("lion"), True),
    "adafactor": (config("adafactor"), False),
    "adafactor with weight decay": (config("adafactor", weight_decay=0.1), True),
    "clip": (config("sgd", clip_norm=0.1), False),
}


@pytest.mark.parametrize("name", MOVES_DEAD_GATES)
def test_which_optimisers_would_move_a_dead_gate(name: str) -> None:
    """The table in the module's docstring: why a zero gradient is not enough, and that the update is zeroed for all."""
    settings, moves = MOVES_DEAD_GATES[name]
    opt = make_optimizer(settings)
    logits, state = trained(opt)
    free, _ = jax.jit(opt.update)(MASKED_GRADS[3], state, logits)
    assert np.asarray(free[0])[DEAD].any() == moves
    ends = jax.jit(optax.chain(opt, preserve_dead()).update)
    held, _ = ends(MASKED_GRADS[3], (state, optax.EmptyState()), logits, gate_mask=MASK)
    assert not np.asarray(held[0])[DEAD].any()
    np.testing.assert_allclose(np.asarray(held[0])[~DEAD], np.asarray(free[0])[~DEAD], rtol=1e-6)
    assert np.asarray(free[0])[~DEAD].all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("policy", ["keep", "freeze", "reset"])
def test_state_policies(name: str, policy: str) -> None:
    opt = make_optimizer(config(name))
    logits, state = trained(opt)
    _, usual = jax.jit(opt.update)(MASKED_GRADS[3], state, logits)
    _, held = jax.jit(preserve_dead(opt, policy).update)(MASKED_GRADS[3], state, logits, gate_mask=MASK)
    arrays = 0
    for old, new, free in zip(*map(jax.tree.leaves, (state, held, usual)), strict=True):
        if np.shape(old) != LOGITS[0].shape:
            np.testing.assert_allclose(new, free, rtol=1e-6)
            continue
        arrays += 1
        expected = {"keep": np.asarray(free), "freeze": np.asarray(old), "reset": np.zeros_like(old)}[policy]
        np.testing.assert_allclose(np.asarray(new)[DEAD], expected[DEAD], rtol=1e-6)
        np.testing.assert_allclose(np.asarray(new)[~DEAD], np.asarray(free)[~DEAD], rtol=1e-6)
    assert arrays == {"sgd": 0, "adam": 2, "adamw": 2, "rmsprop": 1, "lion": 1, "adafactor": 1}[name]


def test_moments_under_each_policy_by_hand() -> None:
    """After n frozen steps a first moment m is b1^n m, m, or 0."""
    opt = optax.adam(0.1, b1=0.9)
    logits, state = trained(opt)
    before = np.asarray(state[0].mu[0])[DEAD]
    for policy, factor in (("keep", 0.9**5), ("freeze", 1.0), ("reset", 0.0)):
        held = preserve_dead(opt, policy)
        now, params = state, logits
        for _ in range(5):
            params, now = update_params(MASKED_GRADS[3], now, held, params, MASK)
        np.testing.assert_allclose(np.asarray(now[0].mu[0])[DEAD], factor * before, rtol=1e-6)
        assert np.array_equal(np.asarray(params[0])[DEAD], np.asarray(logits[0])[DEAD])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_poisoned_dead_gate_reaches_no_live_gate(name: str, poison: float) -> None:
    opt = make_optimizer(config(name, clip_norm=0.5))
    logits, state = trained(opt)
    poisoned = [jnp.where(jnp.asarray(DEAD)[..., None], poison, logits[0])]
    new, _ = update_params(MASKED_GRADS[3], state, opt, poisoned, MASK)
    assert np.asarray(new[0])[DEAD].tobytes() == np.asarray(poisoned[0])[DEAD].tobytes()
    assert np.isfinite(np.asarray(new[0])[~DEAD]).all()
    if name != "adafactor":  # whose step is scaled by the layer's parameters, the dead gate's included
        clean, _ = update_params(MASKED_GRADS[3], state, opt, logits, MASK)
        assert np.array_equal(np.asarray(new[0])[~DEAD], np.asarray(clean[0])[~DEAD])


def test_the_originals_update_lets_a_nan_through_adafactor() -> None:
    opt = optax.adafactor(0.1)
    poisoned = [jnp.where(jnp.asarray(DEAD)[..., None], jnp.nan, LOGITS[0])]
    after, _ = update_params_after(MASKED_GRADS[3], opt.init(poisoned), opt, poisoned, MASK)
    assert np.isnan(np.asarray(after[0])[~DEAD]).all()


@pytest.mark.parametrize("bits", [0x80000000, 0x00000001, 0x80000001, 0x7F800000, 0xFF800000, 0x7FC01234, 0x00400000])
def test_every_bit_of_a_dead_gate_stays(bits: int) -> None:
    """Negative zero, denormals, infinities, a NaN with a payload."""
    value = np.uint32(bits).view(np.float32)
    logits = [jnp.asarray(np.where(DEAD[..., None], value, np.asarray(LOGITS[0])))]
    for name in ("sgd", "adamw"):
        opt = make_optimizer(config(name))
        new, _ = update_params(MASKED_GRADS[3], opt.init(logits), opt, logits, MASK)
        assert set(np.asarray(new[0])[DEAD].view(np.uint32).ravel().tolist()) == {bits}


def test_without_a_mask_nothing_is_held() -> None:
    opt = optax.sgd(1.0)
    for held in (preserve_dead(opt), optax.chain(opt, preserve_dead())):
        updates, _ = held.update(GRADS[0], held.init(LOGITS), LOGITS)
        assert np.array_equal(updates[0], -GRADS[0][0])


def test_wrapping_twice_is_wrapping_once() -> None:
    opt = optax.adam(0.1)
    logits, state = trained(opt)
    frozen = preserve_dead(opt, "freeze")
    once = frozen.update(MASKED_GRADS[3], state, logits, gate_mask=MASK)
    twice = preserve_dead(frozen).update(MASKED_GRADS[3], state, logits, gate_mask=MASK)
    for a, b in zip(jax.tree.leaves(once), jax.tree.leaves(twice), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("sgd", lambda: optax.sgd(0.1)),
        ("adam", lambda: optax.adam(0.1, b1=0.8, b2=0.8)),
        ("adamw", lambda: optax.adamw(0.1, b1=0.8, b2=0.8, weight_decay=0.1)),
        ("rmsprop", lambda: optax.rmsprop(0.1, decay=0.8)),
        ("lion", lambda: optax.lion(0.1, b1=0.8, b2=0.8, weight_decay=0.0)),
        ("adafactor", lambda: optax.adafactor(0.1)),
    ],
)
def test_a_config_names_its_optimiser(name: str, same: Callable[[], optax.GradientTransformation]) -> None:
    ours, _ = trained(make_optimizer(config(name)))
    theirs, _ = trained(same())
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5, atol=1e-6)


def test_clipping_comes_first() -> None:
    opt = make_optimizer(config("sgd", clip_norm=0.01))
    updates, _ = opt.update(GRADS[0], opt.init(LOGITS), LOGITS)
    np.testing.assert_allclose(np.linalg.norm(np.asarray(updates[0])), 0.1 * 0.01, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "adamax"}, "Input should be"),
        ({"learning_rate": 0.0}, "greater than 0"),
        ({"b1": 1.0}, "less than 1"),
        ({"name": "adam", "weight_decay": 0.1}, "adam has no weight decay; weight_decay is 0.1"),
        ({"name": "adamw", "momentum": 0.9}, "adamw has no separate momentum; momentum is 0.9"),
        ({"clip_norm": -1.0}, "greater than 0"),
        ({"lr": 0.1}, "Extra inputs are not permitted"),
    ],
)
def test_bad_settings_are_refused_when_built(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        OptimizerConfig.model_validate(settings)
    with pytest.raises(ValidationError, match=message):
        FitConfig.model_validate({"optimizer": settings})


def test_settings_are_frozen_values_that_survive_json() -> None:
    for name in NAMES:
        settings = FitConfig(optimizer=config(name))
        assert FitConfig.model_validate_json(settings.model_dump_json()) == settings
        assert hash(settings) == hash(FitConfig(optimizer=config(name)))
    with pytest.raises(ValidationError, match="frozen"):
        FitConfig().steps = 3  # type: ignore[misc]
    for changes in ({"steps": -1}, {"log_every": 0}, {"loss": "l5"}, {"state_policy": "thaw"}, {"sparsity": "l2"}):
        with pytest.raises(ValidationError):
            FitConfig.model_validate(changes)


def test_a_policy_needs_its_optimiser() -> None:
    with pytest.raises(ConfigError, match="'freeze' needs the optimiser whose state it governs"):
        preserve_dead(state="freeze")
