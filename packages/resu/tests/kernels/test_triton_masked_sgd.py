import inspect
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from resu.core.mask import SparseMask
from resu.core.phases import Phase, sparsify
from resu.errors import KernelError
from resu.optim.masked import MaskedSGD

pytestmark = pytest.mark.needs_extra("triton")

SHAPES = ((5, 31), (11, 100), (1, 9617))
HYPER = {"lr": 0.1, "lr_pruned": 0.03, "weight_decay": 0.1, "shadow_beta": 0.98}
STEPS = 5


@pytest.fixture(scope="module")
def sgd() -> ModuleType:
    from resu.kernels import triton_masked_sgd

    return triton_masked_sgd


@pytest.fixture(scope="module")
def pack() -> Callable[[Tensor], Tensor]:
    from resu.kernels import triton_bits

    return triton_bits.pack_rows


def torch_sgd(w: np.ndarray, gradients: list[np.ndarray], lr: float, momentum: float, nesterov: bool) -> np.ndarray:
    parameter = torch.nn.Parameter(torch.from_numpy(w).double())
    optimizer = torch.optim.SGD(
        [parameter], lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=HYPER["weight_decay"]
    )
    for gradient in gradients:
        parameter.grad = torch.from_numpy(gradient).double()
        optimizer.step()
    return parameter.detach().numpy()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
@pytest.mark.parametrize("invert", [False, True])
def test_written_coordinates_follow_torch_and_the_others_keep_every_bit(
    sgd: ModuleType,
    pack: Callable[[Tensor], Tensor],
    kernel_device: str,
    shape: tuple[int, int],
    momentum: float,
    nesterov: bool,
    invert: bool,
) -> None:
    rng = np.random.default_rng(0)
    active = rng.random(shape) < 0.5
    w0, m0, *gradients = (rng.normal(size=shape).astype(np.float32) for _ in range(2 + STEPS))
    w, m, flags = (torch.from_numpy(x.copy()).to(kernel_device) for x in (w0, m0, active))
    for step, gradient in enumerate(gradients):
        # Strides of a transposed matrix: read by storage order, the gradient would be another.
        g = torch.from_numpy(np.ascontiguousarray(gradient.T)).to(kernel_device).t()
        sgd.launch(
            w, g, m if momentum else None, pack(flags), invert=invert, everything=False, shadow=False, **HYPER,
            momentum=momentum, nesterov=nesterov, first=step == 0,
        )  # fmt: skip
    written = active ^ invert
    lr = HYPER["lr_pruned"] if invert else HYPER["lr"]
    expected = torch_sgd(w0[written], [gradient[written] for gradient in gradients], lr, momentum, nesterov)
    np.testing.assert_allclose(w.cpu().numpy()[written], expected, rtol=1e-6, atol=1e-6)
    for now, before in ((w, w0), (m, m0)):
        assert np.array_equal(now.cpu().numpy()[~written].view(np.int32), before[~written].view(np.int32))


def test_both_sets_a_subset_and_the_mean_of_the_gradient(
    sgd: ModuleType, pack: Callable[[Tensor], Tensor], kernel_device: str
) -> None:
    def run(m: Tensor, **changes: object) -> tuple[list[list[float]], list[list[float]]]:
        w = torch.ones(1, 4, device=kernel_device)
        g = torch.tensor([[1.0, 2.0, -3.0, 4.0]], device=kernel_device)
        words = pack(torch.tensor([[True, True, False, False]], device=kernel_device))
        settings = {"invert": False, "everything": False, "shadow": False, "first": False, "nesterov": False}
        settings |= {"lr": 0.5, "lr_pruned": 0.25, "weight_decay": 0.0, "momentum": 0.5, "shadow_beta": 0.75}
        sgd.launch(w, g, m, words, **settings | changes)
        return w.tolist(), m.tolist()

    ones = torch.ones(1, 4, device=kernel_device)
    # m = 0.5 * 1 + g, and w = 1 - lr * m with lr 0.5 for the active two, 0.25 for the others.
    assert run(ones.clone(), everything=True) == ([[0.25, -0.25, 1.625, -0.125]], [[1.5, 2.5, -2.5, 4.5]])
    subset = pack(torch.tensor([[False, False, True, False]], device=kernel_device))
    assert run(ones.clone(), invert=True, subset=subset) == ([[1, 1, 1.625, 1]], [[1, 1, -2.5, 1]])
    # The pruned two keep their weight and take m = 0.75 * 1 + 0.25 * g.
    assert run(ones.clone(), shadow=True) == ([[0.25, -0.25, 1, 1]], [[1.5, 2.5, 0, 1.75]])


def test_steps_that_make_no_sense_are_refused(
    sgd: ModuleType, pack: Callable[[Tensor], Tensor], kernel_device: str
) -> None:
    w = torch.zeros(2, 33, device=kernel_device)
    words = pack(w)
    launch = inspect.unwrap(sgd.launch)
    settings = {"invert": False, "everything": False, "shadow": False, "momentum": 0.9, "nesterov": False}
    settings |= {"first": True, **HYPER}
    with pytest.raises(KernelError, match=r"shadow was asked for together with invert=True and everything=False"):
        launch(w, w, None, words, **settings | {"shadow": True, "invert": True})
    with pytest.raises(KernelError, match=r"m must have the two dimensions of w.* m is \(66,\)"):
        launch(w, w, w.view(-1), words, **settings)
    if kernel_device == "cpu":
        with pytest.raises(KernelError, match=r"computes bfloat16 wrongly, without a word; w is torch.bfloat16"):
            launch(w.bfloat16(), w, None, words, **settings)


# NaN with a payload, -0, infinity and the smallest subnormal: bits that arithmetic would not leave alone.
ODD_BITS = np.array([0x7FC01234, 0x80000000, 0xFF800000, 1], np.uint32).view(np.int32)


@pytest.mark.parametrize("shape", [(7,), (11, 100), (3, 2, 3, 3)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
@pytest.mark.parametrize(("phase", "partly"), [*((phase, False) for phase in Phase), (Phase.RESU, True)])
def test_the_optimizer_steps_by_the_kernel_as_it_does_in_eager_mode(
    monkeypatch: pytest.MonkeyPatch,
    sgd: ModuleType,
    kernel_device: str,
    phase: Phase,
    partly: bool,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    shape: tuple[int, ...],
) -> None:
    launches: list[Tensor] = []
    launch = sgd.launch

    def counted(w: Tensor, *operands: object, **settings: object) -> None:
        launches.append(w)
        launch(w, *operands, **settings)

    monkeypatch.setattr(sgd, "launch", counted)
    rng = np.random.default_rng(0)
    start, *drawn = (rng.normal(size=shape).astype(np.float32) for _ in range(1 + 2 * STEPS))
    active = SparseMask.random(shape, 0.6)
    resu = ~active & SparseMask.random(shape, 0.5, seed=1) if partly else ~active
    sets = {Phase.TRAIN: active, Phase.SHADOW: active, Phase.RESU: resu, Phase.JOINT: SparseMask.ones(shape)}
    written = sets[phase].to_bool().numpy()

    def trained(backend: str) -> tuple[np.ndarray, np.ndarray | None]:
        weight = torch.nn.Parameter(torch.from_numpy(start.copy()).to(kernel_device))
        optimizer = MaskedSGD([weight], 0.1, momentum, weight_decay, nesterov, backend=backend)

        def steps(gradients: list[np.ndarray]) -> None:
            for gradient in gradients:
                weight.grad = torch.from_numpy(gradient).to(kernel_device)
                optimizer.step()

        sparse = sparsify(weight, active.to(kernel_device))
        sparse.beta, sparse.pruned_lr_scale = 0.75, 0.3
        steps(drawn[:STEPS])
        optimizer.before_phase(sparse, phase)
        sparse.phase = phase
        sparse.subset = resu.to(kernel_device) if partly else None
        bits = torch.from_numpy(np.resize(ODD_BITS, shape)).to(kernel_device)
        frozen = torch.from_numpy(~written).to(kernel_device)
        weight.data.copy_(torch.where(frozen, bits.view(torch.float32), weight.data))
        steps(drawn[STEPS:])
        now = weight.detach().cpu().numpy()
        assert np.array_equal(now[~written].view(np.int32), np.resize(ODD_BITS, shape)[~written])
        assert (now != start)[written].all()
        buffer = optimizer.state[weight]["momentum_buffer"]
        return now, None if buffer is None else buffer.cpu().numpy()

    plain, plain_momentum = trained("eager")
    assert launches == []
    now, now_momentum = trained("triton")
    assert len(launches) == 2 * STEPS
    np.testing.assert_allclose(now[written], plain[written], rtol=1e-6, atol=1e-6)
    assert (now_momentum is None) == (plain_momentum is None) == (momentum == 0)
    if now_momentum is not None:
        np.testing.assert_allclose(now_momentum, plain_momentum, rtol=1e-6, atol=1e-6)
