"""RESU within a budget of steps: phases on time, exact freezing, and the two sets of settings."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from resu.baselines import method_config
from resu.core.phases import Phase
from resu.errors import ConfigError


def phases_of(b: Any) -> list[str]:
    """The phase in which each step was taken."""
    seen: list[str] = []
    step_of = b.method.after_backward

    def watch(step: int) -> bool:
        seen.append(b.sparsifier.phase.value)
        return bool(step_of(step))

    b.method.after_backward = watch
    for _ in b.run():
        pass
    return seen


def test_default_cycles_commit_and_then_recover(bench: Callable[..., Any]) -> None:
    b = bench("resu", sparsity=0.7, steps=80, changes={"num_cycles": 7})
    # ⌊80 · 0.75 / 7⌋ = 8 steps a cycle, one of them RESU; 24 steps of recovery.
    assert phases_of(b) == (["train"] * 7 + ["resu"]) * 7 + ["train"] * 24
    assert len(b.method.commits) == 7
    assert b.stepped == [True] * 80
    places = b.expected.values()
    assert list(places) == [57, 45]
    # ⌊r(c) n⌋ of each layer's places, r = 0.30 − 0.04 c.
    wanted = [17 + 13, 14 + 11, 12 + 9, 10 + 8, 7 + 6, 5 + 4, 3 + 2]
    assert [report.resurrected for report in b.method.commits] == wanted
    assert all(report.n_active == sum(places) for report in b.method.commits)


def test_default_freezes_active_weights_and_trains_the_rest(bench: Callable[..., Any]) -> None:
    b = bench("resu", steps=40, changes={"num_cycles": 2, "resu_fraction": 0.4, "train_fraction": 0.6})
    layers = b.sparsifier.parameters
    for step in range(9):
        b.step(step)
    before = {name: sparse.weight.clone() for name, sparse in layers.items()}
    bias = b.model[0].bias.detach().clone()
    for step in range(9, 14):
        b.step(step)
        assert b.sparsifier.phase is Phase.RESU
    for name, sparse in layers.items():
        active = sparse.mask.row_bool(slice(None))
        assert torch.equal(sparse.weight[active], before[name][active])
        moved = sparse.weight[~active] != 0
        assert moved.float().mean() > 0.9
    assert not torch.equal(b.model[0].bias, bias)
    assert all("exp_avg" in b.optimizer.state[sparse.parameter] for sparse in layers.values())


def test_published_cycles_by_the_clock(bench: Callable[..., Any]) -> None:
    b = bench("resu_paper", steps=50)
    # 10 steps a cycle, 6 TRAIN, 1 STABILIZE and 3 RESU; the first cycle of the linear schedule prunes nothing.
    assert phases_of(b) == ["train"] * 10 + (["train"] * 7 + ["resu"] * 3) * 4
    assert [step for step, stepped in enumerate(b.stepped) if not stepped] == [
        10 * c + k for c in range(1, 5) for k in (7, 8, 9)
    ]
    assert len(b.method.commits) == 4
    assert b.sparsifier.phase is Phase.TRAIN
    assert b.counts == b.expected


def test_published_settings_are_those_of_the_preset() -> None:
    cycle = method_config("resu_paper").cycle()  # type: ignore[attr-defined]
    assert (cycle.num_cycles, cycle.resu_init, cycle.resu_epsilon, cycle.resu_lr) == (5, "normal", 0.1, 1e-4)
    assert cycle.use_selective
    assert cycle.clear_state
    assert cycle.freeze_others
    assert cycle.recovery_fraction == 0


def test_published_resu_clears_states_and_freezes_all_but_theta(bench: Callable[..., Any]) -> None:
    b = bench("resu_paper", steps=50, changes={"resu_lr": 0.01, "sparsity_schedule": "constant"})
    layers = b.sparsifier.parameters
    for step in range(7):
        b.step(step)
    assert all("exp_avg" in b.optimizer.state[sparse.parameter] for sparse in layers.values())
    before = {name: value.clone() for name, value in b.model.state_dict().items()}
    b.method.before_step(7)
    assert not any(b.optimizer.state.get(sparse.parameter) for sparse in layers.values())
    started = {name: sparse.weight.clone() for name, sparse in layers.items()}
    b.method.sparsifier = b.sparsifier
    b.optimizer.zero_grad()
    torch.nn.functional.cross_entropy(b.model(b.x), b.y).backward()
    assert not b.method.after_backward(7)
    for name, sparse in layers.items():
        active = sparse.mask.row_bool(slice(None))
        assert torch.equal(sparse.weight[active], before[name][active])
        changed = (sparse.weight != started[name]) & ~active
        # RESU-Selective moves at most a fifth of the pruned coordinates in a step, and at least one.
        assert 1 <= int(changed.sum()) <= max(1, int(0.2 * sparse.mask.n_pruned))
        noise = started[name][~active]
        assert 0 < float(noise.std()) < 2 * 0.1 * float(started[name][active].std())
    assert torch.equal(b.model[0].bias, before["0.bias"])


@pytest.mark.parametrize(
    ("changes", "bias_moves", "theta_by"),
    [
        ({"freeze_others": True}, False, "optimizer"),
        ({"use_selective": True, "score": "magnitude", "resu_lr": 0.01}, True, "selective"),
        ({"resu_lr": 0.05}, True, "optimizer"),
    ],
)
def test_settings_between_the_two(
    bench: Callable[..., Any], changes: dict[str, Any], bias_moves: bool, theta_by: str
) -> None:
    b = bench("resu", steps=40, changes={"num_cycles": 2, "train_fraction": 0.8, "resu_fraction": 0.2, **changes})
    for step in range(13):
        b.step(step)
    bias = b.model[0].bias.detach().clone()
    b.step(13)
    assert b.sparsifier.phase is Phase.RESU
    assert torch.equal(b.model[0].bias, bias) != bias_moves
    moved = {name: (s.weight != 0) & ~s.mask.row_bool(slice(None)) for name, s in b.sparsifier.parameters.items()}
    share = sum(int(flags.sum()) for flags in moved.values()) / sum(
        sparse.mask.n_pruned for sparse in b.sparsifier.parameters.values()
    )
    assert (share > 0.5) == (theta_by == "optimizer")
    assert share > 0
    if "resu_lr" in changes and theta_by == "optimizer":
        assert next(iter(b.sparsifier.parameters.values())).pruned_lr_scale == pytest.approx(0.05 / 0.01)


def test_a_dense_start_prunes_by_and_by(bench: Callable[..., Any]) -> None:
    changes = {"num_cycles": 4, "prune_first": False, "initial_sparsity": 0.4, "sparsity_schedule": "cubic"}
    b = bench("resu", sparsity=0.8, steps=80, changes=changes)
    total = sum(sparse.mask.numel for sparse in b.sparsifier.parameters.values())
    assert sum(b.counts.values()) == total
    seen = [sum(b.counts.values()) for _ in b.run()]
    # After each cycle's prune: s = 0.8 + (0.4 − 0.8)(1 − c / 3)³.
    wanted = [total - round((0.8 - 0.4 * (1 - c / 3) ** 3) * total) for c in range(4)]
    assert [seen[15 * (c + 1) - 1] for c in range(4)] == wanted
    assert seen[-1] == wanted[-1] == sum(b.expected.values())


def test_too_few_steps_for_the_cycles_are_refused(bench: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="at least 2 steps"):
        bench("resu", steps=20)


def test_a_mask_in_the_signs_of_a_state_outlives_the_state(bench: Callable[..., Any]) -> None:
    outcomes = []
    for layout in ("dense", "signbit"):
        b = bench("resu_paper", sparsity=0.5, steps=40, layout=layout, changes={"num_cycles": 2})
        for _ in b.run():
            pass
        outcomes.append([sparse.mask.to_bool() for sparse in b.sparsifier.parameters.values()])
        assert b.counts == b.expected
    for dense, signbit in zip(*outcomes, strict=True):
        assert torch.equal(dense, signbit)
