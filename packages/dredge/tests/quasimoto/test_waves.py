"""Published waves and ensembles against the oracle, and all at once against one by one."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dredge.errors import ModelError
from dredge.quasimoto.ensembles import QuasimotoEnsemble, QuasimotoEnsemble4D, QuasimotoEnsemble6D, WaveEnsemble
from dredge.quasimoto.waves import QuasimotoWave, QuasimotoWave4D, QuasimotoWave6D, WaveBank
from dredge.reference.oracle_waves import wave

pytestmark = pytest.mark.needs_extra("torch")

WAVES = {1: QuasimotoWave, 3: QuasimotoWave4D, 5: QuasimotoWave6D}
ENSEMBLES = {1: (QuasimotoEnsemble, 145), 3: (QuasimotoEnsemble4D, 121), 5: (QuasimotoEnsemble6D, 127)}


def _shaken(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return module


def _at(dim: int, n: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, generator=generator, dtype=torch.float64) for _ in range(dim + 1)]


@pytest.mark.parametrize("dim", WAVES)
@given(seed=st.integers(0, 1000))
def test_a_wave_is_its_formula(dim: int, seed: int) -> None:
    module = _shaken(WAVES[dim]().double(), seed)
    at = _at(dim, 4, seed)
    suffixes = {1: [""], 3: ["x", "y", "z"], 5: ["1", "2", "3", "4", "5"]}[dim]
    join = "" if dim == 1 else "_"
    own = {name: value.item() for name, value in module.named_parameters()}
    parameters = {name: own[name] for name in ("A", "omega", "log_sigma", "phi", "epsilon")}
    parameters |= {
        "k": [own[f"k{s}"] for s in suffixes],
        "v": [own[f"v{s}"] for s in suffixes],
        "lmbda": [own[f"lmbda{join}{s}"] for s in suffixes],
    }
    expected = [wave([x.item() for x in row[:-1]], row[-1].item(), parameters) for row in zip(*at, strict=True)]
    torch.testing.assert_close(module(*at), torch.tensor(expected, dtype=torch.float64), atol=1e-12, rtol=1e-12)
    bank = WaveBank.of([module])
    torch.testing.assert_close(bank(torch.stack(at[:-1], -1), at[-1])[:, 0], module(*at), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("dim", WAVES)
def test_parameters_are_those_that_were_published(dim: int) -> None:
    module = WAVES[dim]()
    own = dict(module.named_parameters())
    assert len(own) == 5 + 3 * dim
    fixed = [own[name].item() for name in ("A", "log_sigma", "phi")]
    assert fixed == [1, 0, 0]
    assert own["epsilon"].item() == pytest.approx(0.1)
    ensemble, count = ENSEMBLES[dim]
    assert sum(p.numel() for p in ensemble().parameters()) == count


@pytest.mark.parametrize("dim", ENSEMBLES)
def test_all_at_once_is_one_by_one_in_values_and_gradients(dim: int) -> None:
    published = _shaken(ENSEMBLES[dim][0](4).double(), seed=2)
    fast = WaveEnsemble.of(published)
    at = _at(dim, 50, seed=1)
    slow_value, fast_value = published(*at), fast(*at)
    assert slow_value.shape == (50, 1)
    torch.testing.assert_close(fast_value, slow_value, atol=1e-12, rtol=1e-12)
    weights = torch.randn(50, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    (slow_value * weights).sum().backward()
    (fast_value * weights).sum().backward()
    for name in ("A", "omega", "log_sigma", "phi", "epsilon"):
        expected = torch.stack([one.get_parameter(name).grad for one in published.waves])
        torch.testing.assert_close(fast.waves.get_parameter(name).grad, expected, atol=1e-10, rtol=1e-10)
    for name in ("k", "v", "lmbda"):
        rows = [
            torch.stack([p.grad for key, p in one.named_parameters() if key.startswith(name)])
            for one in published.waves
        ]
        torch.testing.assert_close(fast.waves.get_parameter(name).grad, torch.stack(rows), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("dim", WAVES)
def test_at_time_zero_a_wave_is_even_and_two_kinds_of_parameters_are_dead(dim: int) -> None:
    module = _shaken(WAVES[dim]().double(), seed=4)
    *x, t = _at(dim, 30, seed=5)
    t = torch.zeros_like(t)
    assert torch.equal(module(*x, t), module(*(-one for one in x), t))
    module(*x, t).square().sum().backward()
    dead = [name for name, p in module.named_parameters() if not p.grad.any()]
    assert sorted(dead) == sorted(name for name, _ in module.named_parameters() if name[0] == "v" or name == "omega")


def test_places_and_times_broadcast() -> None:
    module = QuasimotoEnsemble(3)
    x, t = torch.linspace(-1, 1, 5)[:, None], torch.linspace(0, 1, 4)
    assert module(x, t).shape == (5, 4, 1)
    torch.testing.assert_close(WaveEnsemble.of(module)(x, t), module(x, t), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dim", WAVES)
def test_all_at_once_is_right_far_from_the_origin_in_single_precision(dim: int) -> None:
    published = _shaken(ENSEMBLES[dim][0](3), seed=6)
    with torch.no_grad():
        for one in published.waves:
            for name, p in one.named_parameters():
                if name.startswith("v"):
                    p.fill_(8.0)
                elif name[0] == "k" or name == "omega":
                    p.zero_()  # a phase of thousands has no digits left in single precision, whoever computes it
            one.log_sigma.fill_(-2.0)
    at = [torch.tensor([800.05, 1600.1])] * dim + [torch.tensor([100.0, 200.0])]
    torch.testing.assert_close(WaveEnsemble.of(published)(*at), published(*at), atol=1e-6, rtol=1e-5)


def test_a_generator_makes_the_same_ensemble() -> None:
    one, other = (WaveEnsemble(3, 4, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert one.head.weight.abs().max() <= 0.5
    assert one.head.weight.unique().numel() == 4


def test_what_waves_refuse() -> None:
    with pytest.raises(ModelError, match="3 coordinates and the time; got 2"):
        QuasimotoWave4D()(torch.zeros(1), torch.zeros(1))
    with pytest.raises(ModelError, match="waves of one kind"):
        WaveBank.of([QuasimotoWave(), QuasimotoWave4D()])
    with pytest.raises(ModelError, match="waves of one kind"):
        WaveBank.of([])
    with pytest.raises(ModelError, match="got dim 0"):
        WaveBank(0, 3)
    with pytest.raises(ModelError, match="has 3 dimensions; got 2"):
        WaveBank(3, 2)(torch.zeros(4, 2), torch.zeros(4))
    with pytest.raises(ModelError, match="takes 1 coordinates"):
        WaveEnsemble(1, 2)(torch.zeros(3))
    with pytest.raises(ModelError, match="has waves; got 0"):
        QuasimotoEnsemble(0)
