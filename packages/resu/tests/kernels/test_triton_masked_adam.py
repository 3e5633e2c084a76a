import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from resu.errors import KernelError

pytestmark = pytest.mark.needs_extra("triton")

SHAPES = ((97, 1), (5, 31), (3, 33), (8, 64), (11, 100), (1, 9617))
every_shape = pytest.mark.parametrize("shape", SHAPES)
HYPER = {"lr": 1e-2, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.1}
SETS = {"lr_pruned": 3e-3, "shadow_beta": 0.98}
STEPS = 5


@pytest.fixture(scope="module")
def adam() -> ModuleType:
    from resu.kernels import triton_masked_adam

    return triton_masked_adam


@pytest.fixture(scope="module")
def pack() -> Callable[[Tensor], Tensor]:
    from resu.kernels import triton_bits

    return triton_bits.pack_rows


class Layer(NamedTuple):
    """A weight in training: active where `active` says so, with old moments everywhere."""

    w: np.ndarray
    m: np.ndarray
    v: np.ndarray
    active: np.ndarray
    gradients: list[np.ndarray]


def make_layer(shape: tuple[int, int], seed: int = 0) -> Layer:
    rng = np.random.default_rng(seed)
    w, m, *gradients = (rng.normal(size=shape).astype(np.float32) for _ in range(2 + STEPS))
    return Layer(w, m, np.abs(rng.normal(size=shape)).astype(np.float32), rng.random(shape) < 0.5, gradients)


def torch_adamw(w: np.ndarray, gradients: list[np.ndarray], lr: float = HYPER["lr"]) -> np.ndarray:
    """What torch makes of these coordinates alone, from no moments, in float64."""
    parameter = torch.nn.Parameter(torch.from_numpy(w).double())
    optimizer = torch.optim.AdamW([parameter], lr=lr, weight_decay=HYPER["weight_decay"])
    for gradient in gradients:
        parameter.grad = torch.from_numpy(gradient).double()
        optimizer.step()
    return parameter.detach().numpy()


def same_bits(left: Tensor, right: np.ndarray) -> bool:
    """Whether float32 numbers agree in every bit, the sign of zero included."""
    return np.array_equal(left.cpu().numpy().view(np.int32), right.view(np.int32))


def place(device: str, *arrays: np.ndarray) -> list[Tensor]:
    return [torch.from_numpy(array.copy()).to(device) for array in arrays]


@every_shape
@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("signbit", [False, True])
def test_written_coordinates_follow_torch_and_the_others_keep_every_bit(
    adam: ModuleType,
    pack: Callable[[Tensor], Tensor],
    kernel_device: str,
    shape: tuple[int, int],
    invert: bool,
    signbit: bool,
) -> None:
    layer = make_layer(shape)
    written = layer.active ^ invert
    m0, v0 = np.where(written, 0, layer.m), np.where(written, 0, layer.v)
    if signbit:
        v0 = np.where(layer.active, v0, -v0)
    w, m, v, active = place(kernel_device, layer.w, m0, v0, layer.active)
    words = None if signbit else pack(active)
    for step, gradient in enumerate(layer.gradients, start=1):
        adam.launch(
            w, place(kernel_device, gradient)[0], m, v, words, invert=invert, everything=False, shadow=False,
            **HYPER, **SETS, step_active=step * (not invert), step_pruned=step * invert, signbit=signbit,
        )  # fmt: skip
    lr = SETS["lr_pruned"] if invert else HYPER["lr"]
    expected = torch_adamw(layer.w[written], [gradient[written] for gradient in layer.gradients], lr)
    np.testing.assert_allclose(w.cpu().numpy()[written], expected, rtol=1e-6, atol=1e-6)
    for now, before in ((w, layer.w), (m, m0), (v, v0)):
        assert same_bits(now.cpu()[torch.from_numpy(~written)], before[~written])
    if signbit:
        assert np.array_equal(np.signbit(v.cpu().numpy()), ~layer.active)


@every_shape
def test_compact_moments_hold_the_written_coordinates_in_flat_order(
    adam: ModuleType, pack: Callable[[Tensor], Tensor], kernel_device: str, shape: tuple[int, int]
) -> None:
    from resu.kernels.triton_bits import block_offsets

    layer = make_layer(shape, seed=1)
    count = int(layer.active.sum())
    # One more slot at the end shows that nothing is written behind the last coordinate.
    m, v = (torch.zeros(count + 1, device=kernel_device) for _ in range(2))
    w, active = place(kernel_device, layer.w, layer.active)
    words = pack(active)
    offsets = block_offsets(words, shape[1])
    for step, gradient in enumerate(layer.gradients, start=1):
        adam.launch_compact(w, place(kernel_device, gradient)[0], m, v, words, offsets, **HYPER, step=step)
    gathered = [gradient[layer.active].astype(np.float64) for gradient in layer.gradients]
    np.testing.assert_allclose(w.cpu().numpy()[layer.active], torch_adamw(layer.w[layer.active], gathered), rtol=1e-6,
                               atol=1e-6)  # fmt: skip
    assert same_bits(w.cpu()[torch.from_numpy(~layer.active)], layer.w[~layer.active])
    first, second = np.zeros(count), np.zeros(count)
    for gradient in gathered:
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
    np.testing.assert_allclose(m.cpu().numpy(), [*first, 0], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(v.cpu().numpy(), [*second, 0], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("signbit", [False, True])
def test_both_sets_go_at_their_own_rates_and_counts(
    adam: ModuleType, pack: Callable[[Tensor], Tensor], kernel_device: str, signbit: bool
) -> None:
    layer = make_layer((11, 100), seed=2)
    active = layer.active
    zero = np.zeros_like(layer.w)
    w, m, v, flags = place(kernel_device, layer.w, zero, np.where(active, zero, -zero) if signbit else zero, active)
    words = None if signbit else pack(flags)
    # The active set has been trained for three steps when the other one joins in.
    for step, gradient in enumerate(layer.gradients, start=1):
        adam.launch(
            w, place(kernel_device, gradient)[0], m, v, words, invert=False, everything=step > 3, shadow=False,
            **HYPER, **SETS, step_active=step, step_pruned=max(step - 3, 0), signbit=signbit,
        )  # fmt: skip
    for part, lr, gradients in ((active, 1e-2, layer.gradients), (~active, 3e-3, layer.gradients[3:])):
        expected = torch_adamw(layer.w[part], [gradient[part] for gradient in gradients], lr)
        np.testing.assert_allclose(w.cpu().numpy()[part], expected, rtol=1e-6, atol=1e-6)


@every_shape
@pytest.mark.parametrize("signbit", [False, True])
def test_free_moments_gather_statistics_while_active_weights_train(
    adam: ModuleType, pack: Callable[[Tensor], Tensor], kernel_device: str, shape: tuple[int, int], signbit: bool
) -> None:
    layer = make_layer(shape, seed=3)
    active, pruned = layer.active, ~layer.active
    zero = np.zeros_like(layer.w)
    w0 = np.where(active, layer.w, 0).astype(np.float32)
    w, m, v, flags = place(kernel_device, w0, zero, np.where(active, zero, -zero) if signbit else zero, active)
    words = None if signbit else pack(flags)
    mean, mean_abs = np.zeros(shape), np.zeros(shape)
    for step, gradient in enumerate(layer.gradients, start=1):
        adam.launch(
            w, place(kernel_device, gradient)[0], m, v, words, invert=False, everything=False, shadow=True,
            **HYPER, **SETS, step_active=step, step_pruned=0, signbit=signbit,
        )  # fmt: skip
        mean, mean_abs = 0.98 * mean + 0.02 * gradient, 0.98 * mean_abs + 0.02 * np.abs(gradient)
    expected = torch_adamw(layer.w[active], [gradient[active] for gradient in layer.gradients])
    np.testing.assert_allclose(w.cpu().numpy()[active], expected, rtol=1e-6, atol=1e-6)
    assert same_bits(w.cpu()[torch.from_numpy(pruned)], w0[pruned])
    np.testing.assert_allclose(m.cpu().numpy()[pruned], mean[pruned], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(np.abs(v.cpu().numpy())[pruned], mean_abs[pruned], rtol=1e-5, atol=1e-7)
    assert np.array_equal(np.signbit(v.cpu().numpy()), pruned if signbit else np.zeros(shape, bool))


@pytest.mark.parametrize("signbit", [False, True])
def test_a_subset_of_the_pruned_is_written_alone(
    adam: ModuleType, pack: Callable[[Tensor], Tensor], kernel_device: str, signbit: bool
) -> None:
    layer = make_layer((3, 33), seed=4)
    chosen = ~layer.active & (np.random.default_rng(5).random((3, 33)) < 0.3)
    zero = np.zeros_like(layer.w)
    v0 = np.where(layer.active, layer.v, -zero if signbit else zero)
    w, m, v, active, subset = place(kernel_device, layer.w, zero, v0, layer.active, chosen)
    for step, gradient in enumerate(layer.gradients, start=1):
        adam.launch(
            w, place(kernel_device, gradient)[0], m, v, None if signbit else pack(active), invert=True,
            everything=False, shadow=False, **HYPER, **SETS, step_active=0, step_pruned=step, signbit=signbit,
            subset=pack(subset),
        )  # fmt: skip
    expected = torch_adamw(layer.w[chosen], [gradient[chosen] for gradient in layer.gradients], SETS["lr_pruned"])
    np.testing.assert_allclose(w.cpu().numpy()[chosen], expected, rtol=1e-6, atol=1e-6)
    for now, before in ((w, layer.w), (v, v0)):
        assert same_bits(now.cpu()[torch.from_numpy(~chosen)], before[~chosen])


def test_a_gradient_is_read_by_its_coordinates_whatever_its_strides(
    adam: ModuleType, pack: Callable[[Tensor], Tensor], kernel_device: str
) -> None:
    from resu.kernels.triton_bits import block_offsets

    layer = make_layer((33, 7), seed=6)
    g, active = place(kernel_device, layer.gradients[0], layer.active)
    words = pack(active)
    strided = g.t().contiguous().t()
    assert strided.stride() == (1, 33)
    results = []
    for gradient in (g, strided):
        w, m, v = place(kernel_device, layer.w, np.zeros_like(layer.w), np.zeros_like(layer.w))
        adam.launch(
            w, gradient, m, v, words, invert=False, everything=False, shadow=False, **HYPER, **SETS,
            step_active=1, step_pruned=0, signbit=False,
        )  # fmt: skip
        compact, m, v = place(kernel_device, layer.w, np.zeros(231, np.float32), np.zeros(231, np.float32))
        adam.launch_compact(compact, gradient, m, v, words, block_offsets(words, 7), **HYPER, step=1)
        assert torch.equal(w, compact)
        results.append(w)
    assert torch.equal(*results)
    assert not torch.equal(results[0].cpu(), torch.from_numpy(layer.w))


def launch_once(adam: ModuleType, w: Tensor, g: Tensor, words: Tensor | None, **changes: object) -> None:
    arguments = {
        "invert": False, "everything": False, "shadow": False, "step_active": 1, "step_pruned": 1, "signbit": False,
        "m": torch.zeros_like(w), "v": torch.zeros_like(w), **HYPER, **SETS,
    }  # fmt: skip
    arguments |= changes
    inspect.unwrap(adam.launch)(w, g, arguments.pop("m"), arguments.pop("v"), words, **arguments)


def test_bfloat16_weights(adam: ModuleType, pack: Callable[[Tensor], Tensor], kernel_device: str) -> None:
    w = torch.linspace(-2, 2, 66, device=kernel_device).view(2, 33).bfloat16()
    words = pack(torch.ones(2, 33, dtype=torch.bool, device=kernel_device))
    g = torch.ones_like(w)
    if kernel_device == "cpu":
        with pytest.raises(KernelError, match=r"computes bfloat16 wrongly, without a word; w is torch.bfloat16"):
            launch_once(adam, w, g, words)
        with pytest.raises(KernelError, match=r"computes bfloat16 wrongly, without a word; g is torch.bfloat16"):
            launch_once(adam, w.float(), g, words)
        return
    moments = {"m": torch.zeros(2, 33, device=kernel_device), "v": torch.zeros(2, 33, device=kernel_device)}
    exact = w.float()
    launch_once(adam, exact, g.float(), words)
    nearest = w.clone()
    launch_once(adam, nearest, g, words, **moments)
    assert torch.equal(nearest, exact.bfloat16())
    rounded = [w.clone() for _ in range(2)]
    for target in rounded:
        launch_once(adam, target, g, words, **{name: x.zero_() for name, x in moments.items()}, seed=7)
    assert torch.equal(*rounded)
    assert bool(((rounded[0].float() - exact).abs() <= exact.abs() / 128).all())


def test_rounding_at_random_is_to_neighbours_and_without_bias(adam: ModuleType, kernel_device: str) -> None:
    path = Path(__file__).with_name("stochastic_rounding.py")
    spec = importlib.util.spec_from_file_location("stochastic_rounding", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # bfloat16 has 7 bits behind the leading one: between 1 and 2 its neighbours are 2**-7 apart.
    for value, low in ((1.0 + 0.25 / 128, 1.0), (-1.5 - 0.75 / 128, -1.5), (1.25, 1.25)):
        x = torch.full((4000,), value, device=kernel_device)
        out = torch.empty_like(x)
        module.round_kernel[(4,)](x, out, 4000, 11, BLOCK=1024)
        high = low + np.copysign(1 / 128, value)
        assert set(out.tolist()) <= {low, high}
        # Four standard errors of a mean of 4000 draws that differ by 1/128.
        assert abs(float(out.double().mean()) - value) < 4 * 0.5 / 128 / 4000**0.5
        assert torch.equal(out, out.bfloat16().float()) or kernel_device == "cpu"
    x = torch.full((4000,), 1.0 + 0.5 / 128, device=kernel_device)
    draws = []
    for seed in (1, 2):
        out = torch.empty_like(x)
        module.round_kernel[(4,)](x, out, 4000, seed, BLOCK=1024)
        draws.append(out)
    assert 0.4 < float((draws[0] == draws[1]).float().mean()) < 0.6


def test_steps_that_make_no_sense_are_refused(
    adam: ModuleType, pack: Callable[[Tensor], Tensor], kernel_device: str
) -> None:
    w = torch.zeros(2, 33, device=kernel_device)
    words = pack(w)
    with pytest.raises(KernelError, match=r"counted from 1, .* is written is 0"):
        launch_once(adam, w, w, words, step_active=0)
    with pytest.raises(KernelError, match=r"counted from 1, .* is written is -1"):
        launch_once(adam, w, w, words, invert=True, step_pruned=-1)
    with pytest.raises(KernelError, match=r"one of the two; words is None and signbit False"):
        launch_once(adam, w, w, None)
    with pytest.raises(KernelError, match=r"one of the two; words is given and signbit True"):
        launch_once(adam, w, w, words, signbit=True)
    with pytest.raises(KernelError, match=r"shadow was asked for together with invert=False and everything=True"):
        launch_once(adam, w, w, words, shadow=True, everything=True)
    with pytest.raises(KernelError, match=r"for weights stored as bfloat16; w is torch.float32"):
        launch_once(adam, w, w, words, seed=1)


def test_operands_that_do_not_fit_are_refused(
    adam: ModuleType, pack: Callable[[Tensor], Tensor], kernel_device: str
) -> None:
    w = torch.zeros(2, 33, device=kernel_device)
    words = pack(w)
    with pytest.raises(KernelError, match=r"g must have the two dimensions of w.* g is \(33, 2\)"):
        launch_once(adam, w, w.t(), words)
    with pytest.raises(KernelError, match=r"w must be contiguous"):
        launch_once(adam, torch.zeros(33, 2, device=kernel_device).t(), w, words)
    with pytest.raises(KernelError, match=r"int32 words of shape \(2, 2\); these are torch.int32 of shape \(2, 1\)"):
        launch_once(adam, w, w, words[:, :1].contiguous())
    compact = inspect.unwrap(adam.launch_compact)
    with pytest.raises(KernelError, match=r"here 1; m is \(5,\), v \(4,\) and block_offsets \(2,\)"):
        compact(w, w, w[0, :5], w[0, :4], words, words[0], **HYPER, step=1)


def test_a_weight_without_elements_is_no_error(
    adam: ModuleType, pack: Callable[[Tensor], Tensor], kernel_device: str
) -> None:
    w = torch.zeros(0, 33, device=kernel_device)
    launch_once(adam, w, w, pack(w))
    assert w.shape == (0, 33)
