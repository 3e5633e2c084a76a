"""The code blocks of "Complete Performance Fix", run as printed with imports mapped.

Where a block stands inside a class or uses an ellipsis, it is compiled from the text below, which is the note's, with
no more added than the names that the note takes for granted.
"""

import textwrap
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.optim import Adam

from resu.core.effective import effective_weight_dense
from resu.core.mask import SparseMask
from resu.core.resurrection import ResurrectionEmbedding, StorageMode
from resu.kernels.embedding import PhiScatterFunction, phi_inverse_gather, phi_scatter, phi_scatter_grad
from resu.modules.linear import RESULinear, get_resu_modules
from resu.reference.original_memory import live_bytes

EPSILON_AND_SEED = {"epsilon": 0.1, "seed": 1}
TRAINABLE = [StorageMode.COMPACT, StorageMode.DENSE]

# "Verification: Gradient Flow Test", with its arguments in the place of the ellipsis.
GRADIENT_FLOW = """
layer.enter_resu_mode(**arguments)
optimizer = Adam([layer.resurrection.theta])

y = layer(x)
loss = y.sum()
loss.backward()

assert layer.resurrection.theta.grad is not None  # ✓ PASSES!
"""

# "Fix #1: The Solution".
CLEAR_STATES = """
# BEFORE entering RESU:
for module in self.resu_modules.values():
    if module.weight in self.optimizer.state:
        del self.optimizer.state[module.weight]  # ← FREE THE MEMORY!

# Then enter RESU:
module.enter_resu_mode(**arguments)
"""

# "Fix #2: The Solution".
AUTOGRAD = '''
class PhiScatterFunction(Function):
    """Autograd for Φ(θ)"""

    @staticmethod
    def forward(ctx, theta, indices, shape):
        ctx.save_for_backward(indices)
        return phi_scatter(theta, indices, shape)  # Triton kernel

    @staticmethod
    def backward(ctx, grad_output):
        indices, = ctx.saved_tensors
        # Backward of scatter is gather!
        grad_theta = phi_inverse_gather(grad_output, indices)
        return grad_theta, None, None

def phi_scatter_grad(theta, indices, shape):
    """Gradient-enabled version"""
    return PhiScatterFunction.apply(theta, indices, shape)
'''

# "Updated: resu/core/resurrection.py".
PHI = """
def phi(self):
    if self.storage_mode == StorageMode.COMPACT:
        # Now uses gradient-enabled version
        return phi_scatter_grad(self._theta, self.mask.pruned_indices, self.shape)
"""

# "Fix #3".
CACHED = """
# During RESU forward:
if self._W_active_cached is not None:
    # Fast path: W_eff = (cached M⊙W) + Φ(θ)
    phi_theta = self._resurrection.phi()  # ← Now with gradients!
    W = effective_weight_dense(
        self._W_active_cached,  # Cached, no recomputation
        phi_theta,
        self._mask,
        freeze_active=freeze_active,
    )
"""


def run(block: str, **names: Any) -> dict[str, Any]:
    exec(compile(textwrap.dedent(block), "<note>", "exec"), names)
    return names


def pruned(mode: StorageMode) -> RESULinear:
    torch.manual_seed(0)
    layer = RESULinear(24, 16, storage_mode=mode)
    layer.prune_by_magnitude(0.5)
    return layer


@pytest.mark.parametrize("mode", TRAINABLE)
def test_the_gradient_reaches_theta(mode: StorageMode) -> None:
    layer, x = pruned(mode), torch.randn(5, 24)
    names = run(GRADIENT_FLOW, layer=layer, x=x, Adam=Adam, arguments=EPSILON_AND_SEED)
    theta, mask = layer.resurrection.theta, layer.mask
    # ∂(Σ y)/∂W_eff has the sum of each input feature in every row.
    expected = x.sum(0).expand(16, 24)
    if mode is StorageMode.DENSE:
        torch.testing.assert_close(theta.grad, mask.apply_inverse(expected.contiguous()))
    else:
        torch.testing.assert_close(theta.grad, expected[~mask.to_bool()])
    before = theta.detach().clone()
    names["optimizer"].step()
    assert (theta.detach() != before).sum() >= 0.99 * mask.n_pruned


def test_the_default_layer_runs_it_too() -> None:
    layer = RESULinear(8, 4)
    layer.prune_by_magnitude(0.5)
    run(GRADIENT_FLOW, layer=layer, x=torch.ones(1, 8), Adam=Adam, arguments={})
    assert layer.storage_mode is StorageMode.COMPACT


class Trainer:
    """What the note's `self` is in its first block."""

    def __init__(self, model: nn.Module) -> None:
        self.resu_modules = get_resu_modules(model)
        self.optimizer = torch.optim.AdamW(model.parameters())


def trained(mode: StorageMode) -> tuple[nn.Sequential, Trainer]:
    model = nn.Sequential(pruned(mode))
    trainer = Trainer(model)
    model(torch.randn(4, 24)).square().mean().backward()
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    return model, trainer


@pytest.mark.parametrize("mode", TRAINABLE)
@pytest.mark.parametrize("way", ["the note's block", "the layer's own argument"])
def test_clearing_frees_twice_the_weight(mode: StorageMode, way: str) -> None:
    model, trainer = trained(mode)
    layer = model[0]
    size = layer.weight.numel() * 4
    before = live_bytes(trainer.optimizer, gradients=False)
    if way == "the note's block":
        run(CLEAR_STATES, self=trainer, module=layer, arguments=EPSILON_AND_SEED)
    else:
        layer.enter_resu_mode(optimizer=trainer.optimizer, **EPSILON_AND_SEED)
    step_count = 4
    assert before - live_bytes(trainer.optimizer, gradients=False) == 2 * size + step_count
    assert [p.shape for p in trainer.optimizer.state] == [(16,)], "the bias keeps its own"


@pytest.mark.parametrize("mode", TRAINABLE)
def test_at_no_moment_do_weight_and_theta_have_states_at_once(
    mode: StorageMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, trainer = trained(mode)
    layer, seen = model[0], []
    begin: Callable[..., None] = ResurrectionEmbedding.__init__

    def watched(self: ResurrectionEmbedding, *args: Any, **kwargs: Any) -> None:
        seen.append(layer.weight in trainer.optimizer.state)
        begin(self, *args, **kwargs)

    monkeypatch.setattr(ResurrectionEmbedding, "__init__", watched)
    layer.enter_resu_mode(optimizer=trainer.optimizer)
    theta_optimizer = Adam([layer.resurrection.theta])
    for _ in range(3):
        model(torch.randn(4, 24)).sum().backward()
        theta_optimizer.step()
        trainer.optimizer.step()
        seen.append(layer.weight in trainer.optimizer.state)
    assert seen == [False] * 4


def test_the_autograd_function_as_printed_is_ours() -> None:
    mask = SparseMask.random((6, 10), 0.5)
    upstream = torch.randn(6, 10)
    printed = run(AUTOGRAD, Function=Function, phi_scatter=phi_scatter, phi_inverse_gather=phi_inverse_gather)

    def both(scatter: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
        theta = torch.linspace(1, 2, mask.n_pruned, requires_grad=True)
        out = scatter(theta, mask.pruned_indices, mask.shape)
        out.backward(upstream)
        return out.detach(), theta.grad

    for theirs, ours in zip(both(printed["phi_scatter_grad"]), both(phi_scatter_grad), strict=True):
        assert torch.equal(theirs, ours)
    assert printed["PhiScatterFunction"] is not PhiScatterFunction


def test_phi_as_printed_is_ours() -> None:
    layer = pruned(StorageMode.COMPACT)
    layer.enter_resu_mode()
    embedding = layer.resurrection
    printed = run(PHI, StorageMode=StorageMode, phi_scatter_grad=phi_scatter_grad)["phi"]
    assert torch.equal(printed(embedding), embedding.phi())


@pytest.mark.parametrize("freeze_active", [True, False])
def test_the_cached_forward_as_printed_gives_the_layers_weight(freeze_active: bool) -> None:
    layer = pruned(StorageMode.COMPACT)
    layer.enter_resu_mode()

    class Cached:
        _W_active_cached = layer.mask.apply(layer.weight.detach())
        _resurrection, _mask = layer.resurrection, layer.mask

    names = run(CACHED, self=Cached(), effective_weight_dense=effective_weight_dense, freeze_active=freeze_active)
    assert torch.equal(names["W"], layer.effective_weight())
    names["W"].sum().backward()
    assert layer.resurrection.theta.grad.tolist() == [1.0] * layer.mask.n_pruned
