"""The decomposed network: what it leaves alone, what masks do, and that three ways to run it agree."""

from typing import Any

import pytest
import torch
from torch import nn

from spd.config.models import (
    CiConfig,
    GlobalSharedMLPConfig,
    GlobalTransformerConfig,
    MLPConfig,
    ModulePattern,
    SharedMLPConfig,
    VectorMLPConfig,
)
from spd.config.perf import PerfConfig
from spd.errors import ConfigError, TargetError
from spd.models.component_model import ComponentModel, OutputWithCache
from spd.models.identity_insertion import insert_identities
from spd.models.masks import FOLDED, ComponentsMaskInfo, make_mask_infos, stochastic_mask_infos
from spd.routing import route_uniform_k
from spd.sampling import InjectedSampler, SourceSampler

BACKENDS = ("ephemeral_hooks", "persistent_hooks", "inline")
KINDS: dict[str, CiConfig] = {
    "mlp": MLPConfig(hidden_dims=(4,)),
    "vector": VectorMLPConfig(hidden_dims=(4,)),
    "shared": SharedMLPConfig(hidden_dims=(4,)),
    "global": GlobalSharedMLPConfig(hidden_dims=(4,)),
    "transformer": GlobalTransformerConfig(d_model=8, n_heads=2, n_blocks=1, d_mlp=8),
}


class Conv1D(nn.Module):
    """Hugging Face's transposed layer, as its users see it."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(d_in, d_out))
        self.bias = nn.Parameter(torch.randn(d_out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight + self.bias


class Net(nn.Module):
    """Every kind of site: an embedding, a linear layer with and without bias, a transposed one, an identity."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.up = nn.Linear(4, 6)
        self.mid = Conv1D(6, 3)
        self.down = nn.Linear(3, 5, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.down(torch.tanh(self.mid(torch.relu(self.up(self.embed(tokens))))))  # type: ignore[no-any-return]


def _net() -> Net:
    torch.manual_seed(3)
    return Net().double()


def _patterns(*names: str, c: int = 7) -> tuple[ModulePattern, ...]:
    return tuple(ModulePattern(module_pattern=name, C=c) for name in names)


def _model(backend: str = "inline", ci: CiConfig = KINDS["mlp"], *, identity: bool = False, **perf: Any) -> Any:
    net = _net()
    names = ["embed", "up", "mid", "down", *(insert_identities(net, ("down",)) if identity else ())]
    return ComponentModel(
        net, _patterns(*names), ci, perf=PerfConfig(site_backend=backend, **perf),
        generator=torch.Generator().manual_seed(0),
    ).double()  # fmt: skip


TOKENS = torch.tensor([[1, 2, 8], [0, 0, 4]])


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_masks_it_is_the_target(backend: str) -> None:
    model, net = _model(backend, identity=True), _net()
    assert torch.equal(model(TOKENS), net(TOKENS))
    run = model(TOKENS, cache_type="input")
    assert isinstance(run, OutputWithCache)
    assert torch.equal(run.output, net(TOKENS))
    assert list(run.cache) == ["embed", "up", "mid", "down.pre_identity", "down"]
    assert run.cache["embed"] is TOKENS
    assert torch.equal(run.cache["up"], net.embed(TOKENS))


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_is_left_in_the_target(backend: str) -> None:
    net = _net()
    names = [name for name, _ in net.named_modules()], list(net.state_dict())
    model = ComponentModel(net, _patterns("up", "down"), KINDS["mlp"], perf=PerfConfig(site_backend=backend))
    assert ([name for name, _ in net.named_modules()], list(net.state_dict())) == names
    assert all(not p.requires_grad for p in net.parameters())
    assert not model.train().target_model.training
    assert model.detach_target() is net
    assert all(not module._forward_hooks and "forward" not in vars(module) for module in net.modules())


def test_names_of_parameters_do_not_depend_on_how_it_runs() -> None:
    first, *others = ([*_model(backend, identity=True).state_dict()] for backend in BACKENDS)
    assert all(other == first for other in others)
    assert "_components.down-pre_identity.V" in first
    assert "_ci_fns.up.layers.0.W" in first


@pytest.mark.parametrize("delta", ["none", "matrix", "folded"])
@pytest.mark.parametrize("routed", [False, True])
def test_every_way_to_run_gives_the_same_outputs_and_gradients(delta: str, routed: bool) -> None:
    found = []
    for backend in BACKENDS:
        model = _model(backend, identity=True)
        g = model.calc_causal_importances(model(TOKENS, cache_type="input").cache).lower_leaky
        deltas = {"none": None, "matrix": model.calc_weight_deltas(), "folded": FOLDED}[delta]
        router = (route_uniform_k,) if routed else ()
        infos = stochastic_mask_infos(g, SourceSampler(1), "continuous", deltas, *router)
        out = model(TOKENS, mask_infos=infos)
        parameters = [p for p in model.parameters() if p.requires_grad]
        found.append((out, torch.autograd.grad(out.square().sum(), parameters)))
    for out, gradients in found[1:]:
        torch.testing.assert_close(out, found[0][0], rtol=1e-12, atol=1e-12)
        for one, other in zip(gradients, found[0][1], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_folded_and_whole_deltas_agree_in_outputs_and_gradients() -> None:
    found = []
    for folded in (False, True):
        model = _model("inline", identity=True)
        g = model.calc_causal_importances(model(TOKENS, cache_type="input").cache).lower_leaky
        deltas = FOLDED if folded else model.calc_weight_deltas()
        out = model(TOKENS, mask_infos=stochastic_mask_infos(g, SourceSampler(1), "continuous", deltas))
        parameters = [p for p in model.parameters() if p.requires_grad]
        found.append((out, torch.autograd.grad(out.square().sum(), parameters)))
    (whole, whole_gradients), (fold, fold_gradients) = found
    torch.testing.assert_close(fold, whole, rtol=1e-12, atol=1e-12)
    for one, other in zip(fold_gradients, whole_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("backend", BACKENDS)
def test_with_all_of_delta_nothing_changes_and_without_it_components_stand_alone(backend: str) -> None:
    model, net = _model(backend), _net()
    ones = {name: torch.ones(2, 3, 7).double() for name in model.target_module_paths}
    deltas = {name: (delta, torch.ones(2, 3).double()) for name, delta in model.calc_weight_deltas().items()}
    torch.testing.assert_close(model(TOKENS, mask_infos=make_mask_infos(ones, "all", deltas)), net(TOKENS))
    alone = _net()
    for name, components in model.components.items():
        alone.get_submodule(name).weight.data = components.weight.detach()
    torch.testing.assert_close(model(TOKENS, mask_infos=make_mask_infos(ones)), alone(TOKENS))
    nothing = dict.fromkeys(model.target_module_paths)
    torch.testing.assert_close(model(TOKENS, mask_infos=make_mask_infos(nothing)), alone(TOKENS))


def test_an_unmasked_product_in_the_cheaper_order_is_the_same() -> None:
    nothing = make_mask_infos(dict.fromkeys(("embed", "up", "mid", "down")))
    tokens = torch.randint(9, (50, 3))
    torch.testing.assert_close(
        _model(fused_unmasked=True)(tokens, mask_infos=nothing), _model()(tokens, mask_infos=nothing)
    )


def test_sites_that_are_left_out_keep_their_layers() -> None:
    model, net = _model(), _net()
    zeros = {"down": ComponentsMaskInfo(torch.zeros(2, 3, 7).double())}
    assert not model(TOKENS, mask_infos=zeros).any()
    run = model(TOKENS, mask_infos=zeros, cache_type="output")
    torch.testing.assert_close(run.cache["mid"], net.mid(torch.relu(net.up(net.embed(TOKENS)))))


def test_the_frozen_product_is_computed_only_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    for backend in BACKENDS:
        model = _model(backend)
        infos = make_mask_infos({"up": torch.ones(2, 3, 7).double(), "down": torch.ones(2, 3, 7).double()})
        weights = {id(model.target_weight(name).untyped_storage()): name for name in ("up", "down")}
        addresses = {model.target_model.get_submodule(name).weight.data_ptr() for name in weights.values()}
        seen: list[bool] = []

        def counted(x: Any, w: Any, b: Any = None, seen: Any = seen, addresses: Any = addresses) -> Any:
            seen.append(w.data_ptr() in addresses)
            return x @ w.T if b is None else x @ w.T + b

        with monkeypatch.context() as patch:
            patch.setattr(nn.functional, "linear", counted)
            model(TOKENS, mask_infos=infos)
        calls.append(sum(seen))
    assert calls == [2, 2, 0]


def test_any_method_of_the_target_runs_masked_within_a_context() -> None:
    for backend in BACKENDS:
        model = _model(backend)
        infos = {"down": ComponentsMaskInfo(torch.zeros(2, 3, 7).double())}
        with model.masked(infos) as target:
            assert not target(TOKENS).any()
        assert target(TOKENS).any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_exception_leaves_no_instruction_behind(backend: str) -> None:
    model, net = _model(backend), _net()
    with pytest.raises(IndexError):
        model(TOKENS + 9, mask_infos={"down": ComponentsMaskInfo(torch.zeros(2, 3, 7).double())})
    assert torch.equal(model(TOKENS), net(TOKENS))


def test_component_activations_are_kept_on_both_sides_of_a_cut() -> None:
    model = _model()
    run = model(TOKENS, cache_type="component_acts", mask_infos=make_mask_infos(dict.fromkeys(("up", "down"))))
    before, after = run.cache["up_pre_detach"], run.cache["up_post_detach"]
    torch.testing.assert_close(before, model.components["up"].get_inner_acts(_net().embed(TOKENS)))
    # From the output back to the nearest cut, and from what was before that one to the next.
    for what, cut in ((run.output, run.cache["down_post_detach"]), (run.cache["down_pre_detach"], after)):
        (gradient,) = torch.autograd.grad(what.sum(), cut, retain_graph=True)
        assert gradient.any()
    for cut in (before, after):
        with pytest.raises(RuntimeError, match="not have been used in the graph"):
            torch.autograd.grad(run.output.sum(), cut, retain_graph=True)


@pytest.mark.parametrize("kind", KINDS)
def test_importances_of_each_kind(kind: str) -> None:
    net = _net()
    names = ("up", "mid", "down") if kind in ("vector", "shared") else ("embed", "up", "mid", "down")
    model = ComponentModel(net, _patterns(*names), KINDS[kind], generator=torch.Generator().manual_seed(0)).double()
    cache = model(TOKENS, cache_type="input").cache
    ci = model.calc_causal_importances(cache)
    for name in names:
        z = ci.pre_sigmoid[name]
        assert z.shape == (2, 3, 7)
        torch.testing.assert_close(ci.lower_leaky[name], z.clamp(0, 1))
        torch.testing.assert_close(ci.upper_leaky[name], torch.where(z > 1, 1 + 0.01 * (z - 1), z.clamp(0, 1)))
    assert (list(model.ci_fns) == ["global"]) is (kind in ("global", "transformer"))


def test_importances_train_v_unless_they_are_detached() -> None:
    model = _model()
    cache = model(TOKENS, cache_type="input").cache
    for detach in (False, True):
        z = model.calc_causal_importances(cache, detach_inputs=detach).pre_sigmoid["up"].sum()
        (gradient,) = torch.autograd.grad(z, model.components["up"].V, allow_unused=True)
        assert (gradient is None) is detach


def test_binomial_importances_see_noise_in_the_masks_only() -> None:
    model = _model()
    cache = {"up": model(TOKENS, cache_type="input").cache["up"]}
    u = torch.rand(2, 3, 7)
    ci = model.calc_causal_importances(cache, "binomial", sampler=InjectedSampler([u]))
    z = ci.pre_sigmoid["up"]
    torch.testing.assert_close(ci.lower_leaky["up"], (1.05 * z - 0.05 * u).clamp(0, 1))
    assert torch.equal(ci.upper_leaky["up"], model.calc_causal_importances(cache).upper_leaky["up"])
    with pytest.raises(ConfigError, match="no sampler"):
        model.calc_causal_importances(cache, "binomial")


def test_cached_weights_follow_the_model() -> None:
    model = _model(cache_target_weights=True)
    before = model.target_weight("up")
    assert model.target_weight("up") is before
    model.float()
    assert model.target_weight("up").dtype == torch.float32
    state = model.state_dict()
    state["target_model.up.weight"] = torch.zeros(6, 4)
    model.load_state_dict(state)
    assert not model.target_weight("up").any()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("layer*",), r"'layer\*' matches none of embed, up, mid, down"),
        (("up", "u*"), "up is matched by 'up' and by 'u\\*'"),
        (("act",), "'act' matches act, a Tanh"),
    ],
)
def test_patterns_that_cannot_be_meant(names: tuple[str, ...], message: str) -> None:
    net = _net()
    if names == ("act",):
        net.add_module("act", nn.Tanh())
    with pytest.raises(TargetError, match=message):
        ComponentModel(net, _patterns(*names), KINDS["mlp"])


def test_masks_and_weights_of_sites_that_do_not_exist() -> None:
    model = _model()
    with pytest.raises(TargetError, match="got some for 'top'"):
        model(TOKENS, mask_infos={"top": ComponentsMaskInfo(torch.ones(1))})
    with pytest.raises(TargetError, match="got 'top'"):
        model.target_weight("top")


def test_tokens_are_read_as_inner_activations_only() -> None:
    with pytest.raises(ConfigError, match="got 'shared_mlp' for embed"):
        ComponentModel(_net(), _patterns("embed"), KINDS["shared"])


def test_identities_go_before_linear_layers_once() -> None:
    net = _net()
    for patterns, message in ((("nothing",), "matches none"), (("embed",), "embed is a Embedding")):
        with pytest.raises(TargetError, match=message):
            insert_identities(net, patterns)
    before = net(TOKENS)
    assert insert_identities(net, ("mid",)) == ("mid.pre_identity",)
    assert torch.equal(net(TOKENS), before)
    with pytest.raises(TargetError, match="mid has one already"):
        insert_identities(net, ("mid",))


class Tuple(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, self.lin(x)


def test_an_element_or_an_attribute_of_the_output_is_taken() -> None:
    x = torch.ones(1, 2)
    model = ComponentModel(Tuple(), _patterns("lin"), KINDS["mlp"], output_attr="idx_1")
    assert torch.equal(model(x), model.target_model.lin(x))
