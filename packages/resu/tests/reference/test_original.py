"""The reconstruction shows what was measured of the original: its bytes, its defects, and its own fixes."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from resu.reference import oracle, original_effective, original_memory, original_training
from resu.reference.original_effective import Forward
from resu.reference.original_layers import OriginalRESULinear, OriginalSelective
from resu.reference.original_memory import live_bytes, live_parts
from resu.reference.original_training import build

SIZE = 64
W = SIZE * SIZE * 4


def in_units_of_weight(rebuilt: original_training.Rebuilt) -> float:
    return live_bytes(*rebuilt) / W


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sparsity", "kept", "cleared"), [(0.5, 9.0, 7.0), (0.75, 10.0, 8.0), (0.9, 10.6, 8.6), (0.98, 10.92, 8.92)]
)
def test_live_bytes_at_entry(sparsity: float, kept: float, cleared: float) -> None:
    # The pruned are ⌊s N⌋, and Adam counts its steps in four bytes.
    tolerance = 8 / SIZE**2
    assert in_units_of_weight(build(SIZE, SIZE, sparsity, clear_state=False)) == pytest.approx(kept, abs=tolerance)
    assert in_units_of_weight(build(SIZE, SIZE, sparsity, clear_state=True)) == pytest.approx(cleared, abs=tolerance)


def test_parts_at_half_add_up_and_are_whole_weights() -> None:
    parts = live_parts(build(SIZE, SIZE, 0.5, clear_state=False))
    step_count = 4
    assert parts == {
        "weight": W,
        "bias and its state": 0,
        "mask float32": W,
        "indices of A and P": 2 * W,
        "cached M*W": W,
        "theta": W // 2,
        "state of theta": 3 * W // 2,
        "state of weight": 2 * W + step_count,
        "gradients": 0,
    }
    assert sum(parts.values()) == live_bytes(*build(SIZE, SIZE, 0.5, clear_state=False))


def test_clearing_frees_exactly_the_two_moments_and_the_step_count() -> None:
    kept, cleared = (build(SIZE, SIZE, 0.5, clear_state=clear) for clear in (False, True))
    assert live_bytes(*kept) - live_bytes(*cleared) == 2 * W + 4
    assert kept.layer.weight in kept.optimizer.state
    assert cleared.layer.weight not in cleared.optimizer.state


def test_a_backward_pass_adds_the_gradient_of_theta() -> None:
    rebuilt = build(SIZE, SIZE, 0.5)
    rebuilt.layer(torch.ones(2, SIZE)).sum().backward()
    assert in_units_of_weight(rebuilt) == 7.5
    assert live_parts(rebuilt)["gradients"] == W // 2


def test_the_form_without_a_cache_saves_it() -> None:
    assert in_units_of_weight(build(SIZE, SIZE, 0.5, forward_form=Forward.RECOMPUTE)) == 6.0


def test_bias_and_its_state_are_counted_apart() -> None:
    rebuilt = build(SIZE, 32, 0.5, clear_state=False, bias=True)
    parts = live_parts(rebuilt)
    assert parts["bias and its state"] == 3 * 32 * 4 + 4
    assert sum(parts.values()) == live_bytes(*rebuilt)


def test_the_notes_tally_is_as_published() -> None:
    tally = original_memory.note_tally(64.0, 0.5)
    assert (tally.dense, tally.before, tally.after) == (192, 320, 192)
    assert (tally.states_before, tally.states_after) == (224, 96)
    assert original_memory.note_tally(1.0, 0.9).after == pytest.approx(4.6)


def test_the_notes_tally_leaves_out_four_weights() -> None:
    tally = original_memory.note_tally(1.0, 0.5)
    for clear, counted in ((False, tally.before), (True, tally.after)):
        found = in_units_of_weight(build(SIZE, SIZE, 0.5, clear_state=clear))
        assert found - counted == pytest.approx(4.0, abs=1e-2)


def test_storages_are_counted_once_wherever_they_hang() -> None:
    class Holder:
        __slots__ = ("kept",)

    holder, base = Holder(), torch.zeros(10)
    holder.kept = {"view": base[2:], "again": [base, (base.view(2, 5),)]}
    assert live_bytes(holder) == 40
    assert len(original_memory.live_tensors(holder)) == 3
    layer = nn.Linear(4, 2)
    layer.weight.hung = torch.zeros(100)
    layer.register_forward_hook(lambda *_: None)
    assert live_bytes(layer) == (8 + 2 + 100) * 4
    layer(torch.ones(1, 4)).sum().backward()
    assert live_bytes(layer) - live_bytes(layer, gradients=False) == 10 * 4
    assert live_bytes(None, 3, "text", torch.float32) == 0


# --- forward and backward ---------------------------------------------------------------------------------------------


def layer_with(form: Forward, sparsity: float = 0.5) -> OriginalRESULinear:
    return build(12, 10, sparsity, forward_form=form, bias=True).layer


@pytest.mark.parametrize("form", list(Forward))
@pytest.mark.parametrize("sparsity", [0.3, 0.9])
def test_all_forms_compute_the_same_and_only_one_has_no_gradient(form: Forward, sparsity: float) -> None:
    layer = layer_with(form, sparsity)
    flags = layer.mask.mask.bool().numpy()
    theta = layer.resurrection.theta
    x, upstream = torch.randn(7, 12), torch.randn(7, 10)
    effective = oracle.effective_weight(layer.weight.detach().numpy(), theta.detach().numpy(), flags)
    out = layer(x)
    expected = x.double().numpy() @ effective.T + layer.bias.detach().double().numpy()
    np.testing.assert_allclose(out.detach().numpy(), expected, rtol=1e-5, atol=1e-5)
    out.backward(upstream)
    assert layer.weight.grad is None
    if form is Forward.CACHED_PLAIN:
        assert theta.grad is None
    else:
        gradient = oracle.phi_inverse(upstream.double().numpy().T @ x.double().numpy(), flags)
        np.testing.assert_allclose(theta.grad.numpy(), gradient, rtol=1e-5, atol=1e-5)


def test_the_published_form_has_one_autograd_node_more() -> None:
    def nodes(form: Forward) -> list[str]:
        node, found = layer_with(form).effective_weight().grad_fn, []
        while node is not None:
            found.append(type(node).__name__)
            node = next((up for up, _ in node.next_functions if up is not None), None)
        return found

    assert len(nodes(Forward.CACHED)) == len(nodes(Forward.RECOMPUTE)) + 1


def test_functions_route_the_gradient_of_the_weight_where_it_is_not_frozen() -> None:
    layer = layer_with(Forward.RECOMPUTE)
    mask, indices, upstream = layer.mask.mask, layer.mask.pruned_indices, torch.randn(10, 12)
    weight, theta = layer.weight.detach().clone().requires_grad_(), torch.randn(indices.numel(), requires_grad=True)
    original_effective.EffectiveWeightFunction.apply(weight, theta, mask, indices, False).backward(upstream)
    assert torch.equal(weight.grad, mask * upstream)
    assert torch.equal(theta.grad, upstream.flatten()[indices])
    weight.grad = None
    original_effective.BlendFunction.apply(weight, torch.zeros(10, 12), mask, False).backward(upstream)
    assert torch.equal(weight.grad, mask * upstream)


def test_the_scatter_reads_indices_back_and_refuses_one_that_is_too_large() -> None:
    with pytest.raises(IndexError):
        original_effective.phi_scatter(torch.ones(1), torch.tensor([4]), (2, 2))


@pytest.mark.parametrize("sparsity", [0.5, 0.8])
def test_sparse_mode_masks_each_time(sparsity: float) -> None:
    layer = OriginalRESULinear(12, 10)
    layer.prune_by_magnitude(sparsity)
    x = torch.randn(2, 3, 12)
    expected = x @ (layer.mask.mask * layer.weight).T + layer.bias
    torch.testing.assert_close(layer(x), expected)


# --- defects ----------------------------------------------------------------------------------------------------------


def loss_of(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).square().mean()


def test_the_resu_phase_never_updates_theta_and_freezes_all_else() -> None:
    rebuilt = build(12, 10, 0.5, bias=True)
    model = nn.Sequential(rebuilt.layer, nn.Linear(10, 3))
    theta = rebuilt.layer.resurrection.theta
    before = {name: p.detach().clone() for name, p in model.named_parameters()} | {"theta": theta.detach().clone()}
    norms = []
    for _ in range(4):
        assert original_training.resu_phase(model, [torch.ones(5, 12)] * 5, loss_of) == 0
        norms.append(float(theta.grad.norm()))
    after = {name: p.detach() for name, p in model.named_parameters()} | {"theta": theta.detach()}
    assert all(torch.equal(before[name], after[name]) for name in before)
    # The same gradient each time, added up: five, ten, fifteen and twenty times one.
    np.testing.assert_allclose(np.array(norms) / norms[0], [1, 2, 3, 4], rtol=1e-4)


def test_what_is_committed_is_the_noise_it_began_with() -> None:
    rebuilt = build(12, 10, 0.5)
    layer, pruned = rebuilt.layer, rebuilt.layer.mask.pruned_indices
    noise, active = layer.resurrection.theta.detach().clone(), layer.weight.detach().clone()
    original_training.resu_phase(layer, [torch.ones(5, 12)] * 5, loss_of)
    layer.exit_resu_mode(commit=True)
    assert torch.equal(layer.weight.detach().flatten()[pruned], noise)
    kept = layer.mask.active_indices
    assert torch.equal(layer.weight.detach().flatten()[kept], active.flatten()[kept])
    assert layer.weight.requires_grad
    layer.enter_resu_mode()
    before = layer.weight.detach().clone()
    layer.exit_resu_mode(commit=False)
    assert torch.equal(layer.weight.detach(), before)


def test_a_plain_step_has_a_learning_rate_of_its_own() -> None:
    layer = OriginalRESULinear(8, 4)
    layer.prune_by_magnitude(0.5)
    layer.enter_resu_mode(use_selective=False)
    before = layer.resurrection.theta.detach().clone()
    layer.resu_step(torch.full((4, 8), 3.0))
    torch.testing.assert_close(
        before - layer.resurrection.theta.detach(), torch.full((16,), 3e-4), rtol=1e-3, atol=1e-8
    )


def test_a_selective_step_follows_the_published_rule() -> None:
    rng = np.random.default_rng(0)
    theta = torch.from_numpy(rng.normal(size=40)).float()
    plain = theta.double().numpy().copy()
    selective, mean, mean_abs = OriginalSelective(theta), np.zeros(40), np.zeros(40)
    for _ in range(4):
        gradient = rng.normal(size=40)
        moved = selective.step(theta, torch.from_numpy(gradient).float(), 0.1)
        step = oracle.selective_step(plain, gradient, mean, mean_abs, 0.1)
        plain, mean, mean_abs = step.theta, step.mean, step.mean_abs
        assert moved == step.selected.sum()
    np.testing.assert_allclose(theta.numpy(), plain, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(selective.consistency.numpy(), step.consistency, rtol=1e-5)


def test_a_selective_layer_uses_it() -> None:
    layer = build(12, 10, 0.5).layer
    before = layer.resurrection.theta.detach().clone()
    layer.resu_step(torch.ones(10, 12))
    assert 0 < (layer.resurrection.theta.detach() != before).sum() <= 12


def test_ties_are_pruned_together() -> None:
    mask = original_effective.SparseMask.from_magnitude(torch.tensor([[1.0, 1.0, 1.0, 2.0]]), 0.25)
    assert mask.mask.tolist() == [[0, 0, 0, 1]]
    assert original_effective.SparseMask.from_magnitude(torch.ones(2, 2), 0.0).mask.all()


def test_mask_and_theta_are_in_no_state_dict() -> None:
    assert list(build(8, 8, 0.5, bias=True).layer.state_dict()) == ["weight", "bias"]


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    one, other = build(8, 8, 0.5, seed=4), build(8, 8, 0.5, seed=4)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(one.layer.resurrection.theta, other.layer.resurrection.theta)
