"""The published loops: what they return, what clipping and autocast really do, what they refuse."""

import logging

import pytest
import torch
from torch import nn

from dredge.errors import DivergenceError, ModelError
from dredge.quasimoto.data import generate_4d_data, generate_6d_data, generate_data
from dredge.quasimoto.ensembles import QuasimotoEnsemble, QuasimotoEnsemble4D, QuasimotoEnsemble6D
from dredge.quasimoto.interference import QuasimotoInterferenceBasis
from dredge.quasimoto.training import train_model, train_model_4d, train_model_6d
from dredge.reference.original import train_as_coded, zero_to_none, zero_to_zeros

pytestmark = pytest.mark.needs_extra("torch")


def test_losses_are_those_of_the_published_loop() -> None:
    x, t, y = generate_data()
    torch.manual_seed(1)
    ours = QuasimotoEnsemble(3)
    published = QuasimotoEnsemble(3)
    published.load_state_dict(ours.state_dict())
    last, losses = train_model("ours", ours, x, t, y, epochs=20, verbose=False)
    assert losses == train_as_coded(published, (x.squeeze(), t.squeeze()), y, 20)
    assert last == losses[-1]
    assert losses[-1] < losses[0]


def test_loops_of_more_dimensions() -> None:
    torch.manual_seed(0)
    *at, values = generate_4d_data(5)
    ours, other = QuasimotoEnsemble4D(2), QuasimotoEnsemble4D(2)
    other.load_state_dict(ours.state_dict())
    assert train_model_4d("4d", ours, *at, values, epochs=5)[1] == train_as_coded(other, at, values, 5)
    *at, values = generate_6d_data(3)
    ours6, other6 = QuasimotoEnsemble6D(2), QuasimotoEnsemble6D(2)
    other6.load_state_dict(ours6.state_dict())
    found = train_model_6d("6d", ours6, *at, values, epochs=5, grad_clip=0.1)[1]
    assert found == train_as_coded(other6, at, values, 5, grad_clip=0.1)


def test_double_precision_stays_double() -> None:
    x, t, y = (part.double() for part in generate_data())
    model = _Line().double()
    exact = ((model(x) - y) ** 2).mean().item()
    # Values rounded to single precision would be off in the eighth digit.
    assert train_model("double", model, x, t, y, epochs=1, verbose=False)[0] == pytest.approx(exact, rel=1e-14)


def test_places_of_several_coordinates_stay_rows() -> None:
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(20, 3, generator=random), torch.randn(20, 2, generator=random)
    ours, published = QuasimotoInterferenceBasis(3, 4, 2), QuasimotoInterferenceBasis(3, 4, 2)
    published.load_state_dict(ours.state_dict())
    _, losses = train_model("rows", ours, x, torch.zeros(20, 1), y, epochs=3, verbose=False)
    assert losses == train_as_coded(published, (x, torch.zeros(20)), y, 3)


class _Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(1, 1)
        self.seen: list[torch.dtype] = []

    def forward(self, x):
        found = self.inner(x)
        self.seen.append(found.dtype)
        return found


def test_models_are_called_by_their_signature() -> None:
    x, t, y = generate_data()
    assert len(train_model("column", _Line(), x, t, y, epochs=2, verbose=False)[1]) == 2
    assert len(train_model("x and t", QuasimotoInterferenceBasis(1, 2), x, t, y, epochs=2, verbose=False)[1]) == 2

    class Faulty(nn.Module):
        def forward(self, x, t):
            raise TypeError("from within the model")

    # The published loop took this for a model that wants x alone.
    with pytest.raises(TypeError, match="from within the model"):
        train_model("faulty", _with_parameter(Faulty()), x, t, y, epochs=1)


def _with_parameter(module: nn.Module) -> nn.Module:
    module.register_parameter("unused", nn.Parameter(torch.zeros(1)))
    return module


def test_autocast_is_real() -> None:
    x, t, y = generate_data()
    plain, cast = _Line(), _Line()
    train_model("plain", plain, x, t, y, epochs=1, verbose=False)
    train_model("cast", cast, x, t, y, epochs=1, verbose=False, use_amp=True)
    assert (plain.seen, cast.seen) == ([torch.float32], [torch.bfloat16])
    as_coded = _Line()
    train_as_coded(as_coded, (x,), y, 1, use_amp=True)
    assert as_coded.seen == [torch.float32]


class _Infinite(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, at):
        ctx.at = at
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return (torch.full_like(gradient, torch.inf) if ctx.at else gradient), None


class _Explodes(_Line):
    """The gradient of its third call is infinite."""

    def forward(self, x):
        return _Infinite.apply(super().forward(x), len(self.seen) == 3)


def test_a_step_whose_gradient_is_not_finite_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    x, t, y = generate_data()
    ours, published = _Explodes(), _Explodes()
    with caplog.at_level(logging.WARNING):
        _, losses = train_model("explodes", ours, x, t, y, epochs=6, verbose=False, grad_clip=1.0)
    assert "1 of 6 steps had a gradient that is not finite" in caplog.text
    assert all(map(torch.isfinite, map(torch.tensor, losses)))
    assert losses[2] == losses[3]
    assert all(p.isfinite().all() for p in ours.parameters())
    # Clipping alone, as coded, makes NaN of it.
    assert not torch.tensor(train_as_coded(published, (x,), y, 6, grad_clip=1.0)).isfinite().all()


def test_a_loss_that_is_not_finite_ends_training() -> None:
    x, t, y = generate_data()
    model = _Explodes()
    with pytest.raises(DivergenceError, match=r"that of explodes in epoch 4 is nan\. Train it anew with grad_clip"):
        train_model("explodes", model, x, t, y, epochs=6, verbose=False)


def test_clearing_to_zeros_and_to_none_train_alike() -> None:
    x, t, y = generate_data()
    torch.manual_seed(3)
    one, other = QuasimotoEnsemble(2), QuasimotoEnsemble(2)
    other.load_state_dict(one.state_dict())
    at = (x.squeeze(), t.squeeze())
    assert train_as_coded(one, at, y, 5, clear=zero_to_zeros) == train_as_coded(other, at, y, 5, clear=zero_to_none)


def test_progress_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    *at, values = generate_6d_data(2)
    with caplog.at_level(logging.INFO):
        train_model_6d("six", QuasimotoEnsemble6D(1), *at, values, epochs=100)
    assert "six: epoch 100 of 100, loss" in caplog.text


def test_what_training_refuses() -> None:
    x, t, y = generate_data()
    for settings, message in (({"epochs": 0}, "at least one epoch"), ({"grad_clip": 0}, "a positive norm")):
        with pytest.raises(ModelError, match=message):
            train_model("line", _Line(), x, t, y, **settings)
    # The published operation compared [1000, 1, 1] with [1000, 1], each with all.
    with pytest.raises(ModelError, match=r"got \(1000, 1, 1\)"):
        train_model("line", nn.Sequential(_Line(), nn.Unflatten(1, (1, 1))), x, t, y)
