"""What *Performance Improvements Documentation* says of its changes, as far as a test can tell without a clock.

Times are claimbench's. Here are counts and correctness: hits, gradients that are None, finite losses, allocations.
"""

import hashlib
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dredge.quasimoto_extended_benchmark import (
    QuasimotoEnsemble,
    QuasimotoEnsemble4D,
    QuasimotoEnsemble6D,
    QuasimotoInterferenceBasis,
    generate_4d_data,
    generate_6d_data,
    generate_data,
    train_model,
    train_model_4d,
    train_model_6d,
)
from dredge.reference.original import chained_4d, chained_6d, in_place_4d, in_place_6d
from dredge.server import _compute_insight_hash

pytestmark = pytest.mark.needs_extra("torch")


def test_repeated_insights_are_hits_and_ids_are_right() -> None:
    _compute_insight_hash.cache_clear()
    texts = [f"insight {number}" for number in range(10)]
    for _ in range(5):
        for text in texts:
            # An equal string that is another object, as each request brings.
            assert _compute_insight_hash(text.encode().decode()) == hashlib.sha256(text.encode()).hexdigest()
    info = _compute_insight_hash.cache_info()
    assert (info.hits, info.misses, info.maxsize) == (40, 10, 1024)


class _Allocations(TorchDispatchMode):
    """Counts new tensors of at least so many elements."""

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.elements, self.count, self.seen = elements, 0, set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, (list, tuple)) else [found]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().nbytes() >= 4 * self.elements:
                pointer = tensor.untyped_storage().data_ptr()
                held = {t.untyped_storage().data_ptr() for t in args if isinstance(t, torch.Tensor)}
                self.count += pointer not in held
        return found


def _allocations(make: Any, grid_size: int, dims: int) -> int:
    with _Allocations(grid_size**dims) as mode:
        make(grid_size)
    return mode.count


@pytest.mark.parametrize(
    ("chained", "in_place", "ours", "grid_size", "dims"),
    [(chained_4d, in_place_4d, generate_4d_data, 20, 3), (chained_6d, in_place_6d, generate_6d_data, 8, 5)],
)
def test_data_is_made_with_fewer_tensors_of_the_size_of_the_grid(
    chained: Any, in_place: Any, ours: Any, grid_size: int, dims: int
) -> None:
    before, after, now = (_allocations(make, grid_size, dims) for make in (chained, in_place, ours))
    assert after < before
    # The coordinates, the times, one product on the way and the values.
    assert now <= dims + 3 < after


def _watched(model: torch.nn.Module) -> list[bool]:
    """Notes at each call of a model whether all its gradients are None."""
    seen: list[bool] = []
    model.register_forward_pre_hook(lambda *_: seen.append(all(p.grad is None for p in model.parameters())))
    return seen


def test_gradients_are_none_when_a_step_begins() -> None:
    models = [QuasimotoEnsemble(2), QuasimotoEnsemble4D(2), QuasimotoEnsemble6D(2)]
    seen = [_watched(model) for model in models]
    train_model("1d", models[0], *generate_data(), epochs=3, verbose=False)
    train_model_4d("4d", models[1], *generate_4d_data(4), epochs=3)
    train_model_6d("6d", models[2], *generate_6d_data(3), epochs=3)
    assert seen == [[True] * 3] * 3
    # The last step leaves them: that they are None before is what clearing did.
    assert all(p.grad is not None for model in models for p in model.parameters())


def test_clipping_keeps_losses_finite_where_a_gradient_is_not() -> None:
    model = QuasimotoInterferenceBasis(1, 4)
    spoilt = iter([1.0, float("inf"), 1.0, 1.0, 1.0])
    model.head.weight.register_hook(lambda gradient, own=spoilt: gradient * next(own))
    _, losses = train_model("spoilt", model, *generate_data(), epochs=5, verbose=False, grad_clip=1.0)
    assert torch.tensor(losses).isfinite().all()
    assert losses[1] == losses[2] > losses[4]


@pytest.mark.parametrize("grad_clip", [None, 1.0])
def test_losses_are_finite_and_fall(grad_clip) -> None:
    torch.manual_seed(0)
    runs = [
        train_model("1d", QuasimotoEnsemble(4), *generate_data(), epochs=10, verbose=False, grad_clip=grad_clip),
        train_model_4d("4d", QuasimotoEnsemble4D(2), *generate_4d_data(6), epochs=10, grad_clip=grad_clip),
        train_model_6d("6d", QuasimotoEnsemble6D(2), *generate_6d_data(3), epochs=10, grad_clip=grad_clip),
    ]
    for last, losses in runs:
        assert torch.tensor(losses).isfinite().all()
        assert last < losses[0]


def test_mixed_precision_trains_on_the_cpu() -> None:
    last, losses = train_model("amp", QuasimotoInterferenceBasis(1, 4), *generate_data(), epochs=10, use_amp=True)
    assert torch.tensor(losses).isfinite().all()
    assert last < losses[0]
