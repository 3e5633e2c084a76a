"""Masks, phases and commits on whole models."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from resu.core.mask import SparseMask
from resu.core.phases import Phase, SparseParameter, release, sparse_state
from resu.errors import CheckpointError, ConfigError, MaskError, OptimizerError, PhaseError
from resu.optim.masked import MaskedAdamW, MaskedSGD
from resu.sparsifier import Sparsifier


def model_of(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(20, 50), nn.ReLU(), nn.Linear(50, 33), nn.ReLU(), nn.Linear(33, 4))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(16, 20, generator=generator), torch.randn(16, 4, generator=generator)
    optimizer.zero_grad()
    nn.functional.mse_loss(model(x), y).backward()
    optimizer.step()


Made = tuple[nn.Sequential, MaskedAdamW, Sparsifier]


@pytest.fixture
def make() -> Callable[..., Made]:
    def build(sparsity: float = 0.8, layout: str = "dense", **settings: object) -> Made:
        model = model_of()
        settings.setdefault("distribution", "uniform")
        optimizer = MaskedAdamW(model.parameters(), 0.01, weight_decay=0.1, layout=layout, backend="eager")
        return model, optimizer, Sparsifier(model, sparsity, optimizer=optimizer, **settings)  # type: ignore[arg-type]

    return build


def weights(sparsifier: Sparsifier) -> dict[str, torch.Tensor]:
    return {name: sparse.weight.clone() for name, sparse in sparsifier.parameters.items()}


def flags(sparsifier: Sparsifier) -> dict[str, torch.Tensor]:
    return {name: sparse.mask.row_bool(slice(None)).clone() for name, sparse in sparsifier.parameters.items()}


@pytest.mark.parametrize("distribution", ["erk", "uniform", "global"])
@pytest.mark.parametrize("method", ["magnitude", "random"])
def test_pruning_is_exact_and_keeps_the_largest(make: Callable[..., Made], distribution: str, method: str) -> None:
    _, _, sparsifier = make(0.73, distribution=distribution)
    before = weights(sparsifier)
    report = sparsifier.prune(method)  # type: ignore[arg-type]
    numel = sum(w.numel() for w in before.values())
    assert report.n_active == numel - round(0.73 * numel)
    assert sparsifier.sparsity == pytest.approx(0.73, abs=1e-3)
    assert report.lost == numel - report.n_active
    gone = {n: w[~flags(sparsifier)[n]].abs() for n, w in before.items()}  # under "erk" the last layer stays dense
    cut = max(float(size.max()) for size in gone.values() if size.numel())
    for name, sparse in sparsifier.parameters.items():
        active = flags(sparsifier)[name]
        assert torch.equal(sparse.weight, torch.where(active, before[name], 0))
        if method == "magnitude":
            lowest = float(before[name][active].abs().min())
            assert lowest >= (cut if distribution == "global" else float(gone[name].max()) if gone[name].numel() else 0)


def test_pruned_weights_stay_zero_and_frozen_ones_keep_every_bit(make: Callable[..., Made]) -> None:
    for layout in ("dense", "signbit", "compact"):
        model, optimizer, sparsifier = make(layout=layout)
        sparsifier.prune()
        for seed in range(5):
            step(model, optimizer, seed)
        active = flags(sparsifier)
        for name, w in weights(sparsifier).items():
            assert not w[~active[name]].any()
        sparsifier.enter_resu(lr_scale=0.5)
        before = weights(sparsifier)
        bias = model[0].bias.detach().clone()  # type: ignore[union-attr, operator]
        for seed in range(5):
            step(model, optimizer, seed)
        for name, w in weights(sparsifier).items():
            assert torch.equal(w[active[name]], before[name][active[name]])
            moved = w[~active[name]] != before[name][~active[name]]
            reachable = sparsifier.parameters[name].parameter.grad.view_as(w)[~active[name]] != 0  # type: ignore[union-attr]
            assert moved[reachable].float().mean() >= 0.99
        assert not torch.equal(bias, model[0].bias.detach())  # type: ignore[union-attr, operator]


def test_an_amnesty_is_two_tournaments(make: Callable[..., Made]) -> None:
    model, optimizer, sparsifier = make()
    sparsifier.prune()
    step(model, optimizer)
    sparsifier.enter_resu()
    for seed in range(4):
        step(model, optimizer, seed)
    before, was = weights(sparsifier), flags(sparsifier)
    report = sparsifier.commit("amnesty", budget=0.25)
    assert sparsifier.phase is Phase.TRAIN
    resurrected = 0
    for name, now in flags(sparsifier).items():
        keep = int(was[name].sum())
        come = int(0.25 * keep)
        size = before[name].abs()
        order_p = sorted(size[~was[name]].tolist(), reverse=True)[:come]
        order_a = sorted(size[was[name]].tolist(), reverse=True)[: keep - come]
        assert sorted(size[now & ~was[name]].tolist(), reverse=True) == order_p
        assert sorted(size[now & was[name]].tolist(), reverse=True) == order_a
        assert torch.equal(weights(sparsifier)[name], torch.where(now, before[name], 0))
        resurrected += come
        layer = report.layers[name]
        assert layer.resurrected == layer.lost == come
        assert layer.resurrection_rate == pytest.approx(come / int((~was[name]).sum()))
        assert layer.jaccard == pytest.approx((keep - come) / (keep + come))
    assert report.resurrected == resurrected
    assert report.n_active == sum(int(f.sum()) for f in was.values())


def test_each_layer_gets_its_own_mask() -> None:
    model = nn.Sequential(nn.Linear(30, 30), nn.Linear(30, 30), nn.Linear(30, 30))
    sparsifier = Sparsifier(model, 0.5)
    masks = {name: SparseMask.random((30, 30), 0.5, seed=i) for i, name in enumerate(sparsifier.parameters)}
    before = weights(sparsifier)
    assert sparsifier.set_masks(masks).n_active == 3 * 450
    for name, sparse in sparsifier.parameters.items():
        assert sparse.mask == masks[name]
        assert torch.equal(sparse.weight, masks[name].apply(before[name]))


@pytest.mark.parametrize("strategy", ["open", "merge", "none"])
def test_the_other_ways_to_commit(make: Callable[..., Made], strategy: str) -> None:
    _, _, sparsifier = make()
    sparsifier.prune()
    sparsifier.enter_resu("normal", epsilon=0.5)
    before, was = weights(sparsifier), flags(sparsifier)
    sparsifier.commit(strategy)  # type: ignore[arg-type]
    for name, now in flags(sparsifier).items():
        keep = int(was[name].sum())
        if strategy == "merge":
            assert bool(now.all())
        elif strategy == "none":
            assert torch.equal(now, was[name])
        else:
            assert int(now.sum()) == keep
            assert before[name].abs()[now].min() >= before[name].abs()[~now].max()
        assert torch.equal(weights(sparsifier)[name], torch.where(now, before[name], 0))


def test_a_commit_may_change_the_sparsity(make: Callable[..., Made]) -> None:
    for distribution in ("erk", "global"):
        _, _, sparsifier = make(distribution=distribution)
        sparsifier.prune()
        sparsifier.enter_resu()
        sparsifier.commit(budget=0.3, sparsity=0.6)
        assert sparsifier.sparsity == pytest.approx(0.6, abs=1e-3)
        sparsifier.enter_resu()
        sparsifier.commit(budget=1.0, sparsity=0.0)
        assert sparsifier.sparsity == 0


@pytest.mark.parametrize("score", ["gradient", "momentum", "consistency", "random"])
def test_regrowth_moves_the_smallest_to_the_best(make: Callable[..., Made], score: str) -> None:
    model, optimizer, sparsifier = make()
    sparsifier.prune("random")
    sparsifier.shadow(beta=0.5)
    for seed in range(4):
        step(model, optimizer, seed)
    before, was = weights(sparsifier), flags(sparsifier)
    best = {}
    for name, sparse in sparsifier.parameters.items():
        m, v = optimizer.moments_rows(sparse.parameter, slice(None)) or (None, None)
        assert m is not None
        assert v is not None
        best[name] = {
            "gradient": sparse.parameter.grad.abs().view_as(m),  # type: ignore[union-attr]
            "momentum": m.abs(),
            "consistency": m.double() ** 2 / (v.double() + 1e-8),
        }.get(score)
    report = sparsifier.regrow(0.3, score)  # type: ignore[arg-type]
    for name, now in flags(sparsifier).items():
        moved = int(0.3 * int(was[name].sum()))
        assert report.layers[name].resurrected == report.layers[name].lost == moved
        gone = was[name] & ~now
        assert before[name].abs()[gone].max() <= before[name].abs()[was[name] & now].min()
        grown = now & ~was[name]
        assert not weights(sparsifier)[name][grown].any()
        if best[name] is not None:
            assert best[name][grown].min() >= best[name][~was[name] & ~now].max() * (1 - 1e-6)  # type: ignore[index]
    assert sparsifier.phase is Phase.SHADOW


def test_theta_starts_as_asked_whatever_came_before(make: Callable[..., Made]) -> None:
    _, _, sparsifier = make(0.5)
    sparsifier.prune("random")
    active = flags(sparsifier)
    sigma = {n: float(w[active[n]].double().std()) for n, w in weights(sparsifier).items()}
    sparsifier.enter_resu("normal", epsilon=0.2)
    theta = {n: w[~active[n]] for n, w in weights(sparsifier).items()}
    for name, values in theta.items():
        if values.numel() > 300:
            assert float(values.std()) == pytest.approx(0.2 * sigma[name], rel=0.15)
    sparsifier.commit("none")
    sparsifier.enter_resu("uniform", epsilon=0.2)
    for name, w in weights(sparsifier).items():
        values = w[~active[name]]
        assert float(values.abs().max()) <= 0.2 * sigma[name]
        assert not torch.equal(values, theta[name])
    other = make(0.5)[2]
    other.prune("random")
    other.enter_resu("normal", epsilon=0.2)
    for name, w in weights(other).items():
        assert torch.equal(w[~active[name]], theta[name])


def test_a_subset_of_exact_size_trains(make: Callable[..., Made]) -> None:
    model, optimizer, sparsifier = make(0.5)
    sparsifier.prune()
    sparsifier.enter_resu(subset=0.2)
    before, active = weights(sparsifier), flags(sparsifier)
    step(model, optimizer)
    for name, sparse in sparsifier.parameters.items():
        assert sparse.subset is not None
        assert sparse.subset.n_active == int(0.2 * sparse.mask.n_pruned)
        chosen = sparse.subset.row_bool(slice(None))
        assert not (chosen & active[name]).any()
        assert torch.equal(sparse.weight[~chosen], before[name][~chosen])


def test_convolutions_embeddings_and_shared_weights_take_part() -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(40, 8)
            self.conv = nn.Conv1d(8, 8, 3)
            self.own = nn.Parameter(torch.randn(6, 8))
            self.head = nn.Linear(8, 40, bias=False)
            self.head.weight = self.words.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = self.conv(self.words(x).transpose(1, 2)).mean(-1) + self.own.sum(0)
            return self.head(hidden)

    model = Small()
    optimizer = MaskedAdamW(model.parameters(), 0.01, backend="eager")
    sparsifier = Sparsifier(model, 0.5, include=["own"], optimizer=optimizer)
    assert set(sparsifier.parameters) == {"words.weight", "conv.weight", "own"}
    sparsifier.prune()
    sparsifier.enter_resu()
    model(torch.arange(40).view(4, 10)).square().sum().backward()
    optimizer.step()
    sparsifier.commit(score="momentum")
    assert model.head.weight is model.words.weight
    assert int((model.conv.weight == 0).sum()) == sparsifier.parameters["conv.weight"].mask.n_pruned
    assert [row.name for row in sparsifier.report()] == list(sparsifier.parameters)
    sparsifier.detach()
    assert Sparsifier(model, 0.5, exclude=["words*"]).parameters.keys() == {"conv.weight"}


def test_other_optimizers_and_functions_as_scores() -> None:
    model = model_of()
    optimizer = MaskedSGD(model.parameters(), 0.1, momentum=0.9)
    sparsifier = Sparsifier(model, 0.6, optimizer=optimizer)

    def odd_columns(name: str, sparse: SparseParameter) -> Callable[[slice], torch.Tensor]:
        assert name
        return lambda part: torch.arange(sparse.mask.cols).remainder(2).float().expand(part.stop - part.start, -1)

    sparsifier.prune(odd_columns, sparsity=0.5)
    active = sparsifier.parameters["0.weight"].mask.to_bool()
    assert bool(active[:, 1::2].all())
    sparsifier.enter_resu()
    step(model, optimizer)
    assert sparsifier.commit(score="momentum").resurrected > 0


def test_a_saved_state_goes_on_with_the_same_bits(make: Callable[..., Made]) -> None:
    for layout in ("dense", "signbit"):
        first, second = make(layout=layout), make(layout=layout)
        model, optimizer, sparsifier = first
        sparsifier.prune()
        step(model, optimizer)
        sparsifier.enter_resu("normal", subset=0.5, lr_scale=0.3)
        step(model, optimizer)
        state = copy.deepcopy([model.state_dict(), optimizer.state_dict(), sparsifier.state_dict()])
        for target, saved in zip(second, state, strict=True):
            target.load_state_dict(saved)
        results = []
        for model, optimizer, sparsifier in (first, second):
            step(model, optimizer, 5)
            sparsifier.commit(budget=0.3)
            step(model, optimizer, 6)
            sparsifier.regrow(0.2, "random")
            results.append([p.detach().numpy().tobytes() for p in model.parameters()])
        assert results[0] == results[1]


def test_what_makes_no_sense_is_refused(make: Callable[..., Made]) -> None:
    model, _, sparsifier = make()
    with pytest.raises(PhaseError, match=r"nothing is pruned"):
        sparsifier.enter_resu()
    with pytest.raises(PhaseError, match=r"nothing is pruned"):
        sparsifier.joint()
    with pytest.raises(PhaseError, match=r"a commit ends RESU or JOINT; the phase is train"):
        sparsifier.commit()
    sparsifier.prune()
    with pytest.raises(OptimizerError, match=r"Take a step first"):
        sparsifier.regrow(0.3, "momentum")
    with pytest.raises(PhaseError, match=r"needs a gradient"):
        sparsifier.regrow(0.3, "gradient")
    with pytest.raises(ConfigError, match=r"got 'signs'"):
        sparsifier.regrow(0.3, "signs")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"share from 0 to 1; got 1.5"):
        sparsifier.regrow(1.5)
    with pytest.raises(ConfigError, match=r"got 0.1, 1.0 and 2.0"):
        sparsifier.enter_resu(subset=2.0)
    with pytest.raises(ConfigError, match=r"below 1; got 1.0"):
        sparsifier.shadow(1.0)
    sparsifier.enter_resu()
    for forbidden in (sparsifier.prune, sparsifier.train, sparsifier.shadow, sparsifier.apply_masks):
        with pytest.raises(PhaseError, match=r"would lose what pruned weights have learnt"):
            forbidden()
    with pytest.raises(ConfigError, match=r"from 0 to 1; got 'amnesty' and 2.0"):
        sparsifier.commit(budget=2.0)
    sparsifier.commit("none")
    with pytest.raises(MaskError, match=r"'9.weight' is none"):
        sparsifier.set_masks({"9.weight": SparseMask.ones((2, 2))})
    with pytest.raises(MaskError, match=r"of shape \(2, 2\); the weight 0.weight has shape \(50, 20\)"):
        sparsifier.set_masks({"0.weight": SparseMask.ones((2, 2))})
    with pytest.raises(MaskError, match=r"below 1; got 1.5"):
        sparsifier.prune(sparsity=1.5)
    with pytest.raises(MaskError, match=r"one mask; 0.weight has one already"):
        Sparsifier(model, 0.5)
    state = sparsifier.state_dict()
    state["layers"].pop("0.weight")
    with pytest.raises(CheckpointError, match=r"'0.weight' is only on one side"):
        sparsifier.load_state_dict(state)


def test_optimizers_that_cannot_serve_are_refused() -> None:
    model = model_of()
    with pytest.raises(OptimizerError, match=r"got SGD. Wrap it: resu.optim.stock.attach"):
        Sparsifier(model, 0.5, optimizer=torch.optim.SGD(model.parameters(), 0.1))  # type: ignore[arg-type]
    stale = MaskedAdamW(model_of(1).parameters())
    with pytest.raises(OptimizerError, match=r"does not hold 0.weight. It may have been built before"):
        Sparsifier(model, 0.5, optimizer=stale)
    assert sparse_state(model[0].weight) is None  # type: ignore[arg-type, union-attr]
    with pytest.raises(ConfigError, match=r"at least one weight"):
        Sparsifier(nn.BatchNorm1d(3), 0.5)
    with pytest.raises(MaskError, match=r"below 1; got 1.0"):
        Sparsifier(model, 1.0)
    release(model[0].weight)  # type: ignore[arg-type, union-attr]


def test_counts_add_up_for_every_distribution(make: Callable[..., Made]) -> None:
    for distribution in ("erk", "uniform", "global"):
        sparsifier = make(distribution=distribution)[2]
        numel = sum(s.parameter.numel() for s in sparsifier.parameters.values())
        for sparsity in np.linspace(0, 0.99, 12):
            assert sum(sparsifier.counts(float(sparsity)).values()) == numel - round(float(sparsity) * numel)
