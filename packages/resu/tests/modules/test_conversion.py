"""convert_to_resu: the same Parameters, tied and shared layers, patterns; get_resu_modules."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from resu.core.mask import SparseMask
from resu.core.phases import sparsify
from resu.core.resurrection import StorageMode
from resu.errors import ConfigError, PhaseError
from resu.modules.linear import RESULinear, RESUMode, convert_to_resu, get_resu_modules

every_mode = pytest.mark.parametrize("mode", list(StorageMode))


class Twice(nn.Module):
    """One layer in two places, two layers with one weight, an embedding tied to one of them, attention."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(8, 8)
        self.again = self.shared
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.table, self.head = nn.Embedding(5, 8), nn.Linear(8, 5, bias=False)
        self.head.weight = self.table.weight
        self.attention = nn.MultiheadAttention(8, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.again(torch.relu(self.shared(self.table(tokens))))
        return self.head(self.second(torch.relu(self.first(x))))


@every_mode
def test_parameters_are_the_same_objects_and_an_older_optimizer_stays_right(mode: StorageMode) -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Sequential(nn.Linear(5, 3, bias=False)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = dict(model.named_parameters())
    out = model(torch.ones(2, 6))
    assert convert_to_resu(model, storage_mode=mode) is model
    after = dict(model.named_parameters())
    assert list(before) == list(after)
    assert all(before[name] is after[name] for name in before)
    assert torch.equal(model(torch.ones(2, 6)), out)
    assert {name: layer.storage_mode for name, layer in get_resu_modules(model).items()} == {"0": mode, "2.0": mode}
    weight = model[0].weight.detach().clone()
    model(torch.ones(2, 6)).sum().backward()
    optimizer.step()
    assert not torch.equal(model[0].weight, weight)


def test_hooks_flags_and_attributes_come_along() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    seen: list[str] = []
    model[0].register_forward_hook(lambda module, args, out: seen.append(type(module).__name__))
    model[0].note = "kept"
    model.eval()
    model[0].weight.requires_grad_(False)
    convert_to_resu(model)
    model(torch.ones(1, 4))
    assert seen == ["RESULinear"]
    assert (model[0].note, model[0].training, model[0].weight.requires_grad) == ("kept", False, False)
    model[0].prune_by_magnitude(0.5)
    model[0].enter_resu_mode()
    model[0].exit_resu_mode()
    assert model[0].weight.requires_grad is False


@every_mode
def test_shared_and_tied_layers_stay_so(mode: StorageMode) -> None:
    torch.manual_seed(0)
    model = Twice()
    weights = {name: id(p) for name, p in model.named_parameters(remove_duplicate=False)}
    tokens = torch.tensor([[0, 1, 4]])
    out = model(tokens)
    convert_to_resu(model, storage_mode=mode)
    assert weights == {name: id(p) for name, p in model.named_parameters(remove_duplicate=False)}
    assert model.shared is model.again
    assert sorted(get_resu_modules(model)) == ["first", "head", "second", "shared"]
    assert type(model.attention.out_proj) is not RESULinear, "attention reads its weight without calling it"
    assert torch.equal(model(tokens), out)

    model.first.prune_by_magnitude(0.5)
    assert model.second.mode is RESUMode.SPARSE
    assert model.second.mask == model.first.mask
    model.second.enter_resu_mode(epsilon=0.5)
    assert model.first.mode is RESUMode.RESU
    assert torch.equal(model.first.effective_weight(), model.second.effective_weight())
    assert model.first.weight_theta is model.second.weight_theta
    names = [name for name, _ in model.named_parameters() if "theta" in name]
    assert len(names) == (0 if mode is StorageMode.INPLACE else 1)
    model(tokens).sum().backward()
    effective = model.first.effective_weight().detach().clone()
    model.first.exit_resu_mode()
    assert model.second.mode is RESUMode.DENSE
    assert torch.equal(model.second.weight, effective)


def test_an_embedding_tied_in_place_sees_theta() -> None:
    model = convert_to_resu(Twice(), "head", storage_mode=StorageMode.INPLACE)
    model.head.prune_by_magnitude(0.5)
    model.head.enter_resu_mode(epsilon=0.5)
    assert torch.equal(model.table(torch.arange(5)), model.head.effective_weight())
    assert (model.table.weight != 0).all()


def named(include: object = None, exclude: object = None) -> list[str]:
    model = nn.Sequential()
    for name in ("encoder", "decoder"):
        model.add_module(name, nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)))
    model.add_module("head", nn.Linear(2, 2))
    return sorted(get_resu_modules(convert_to_resu(model, include, exclude)))


def test_patterns_choose_by_name() -> None:
    assert named() == ["decoder.0", "decoder.2", "encoder.0", "encoder.2", "head"]
    assert named("encoder.*") == ["encoder.0", "encoder.2"]
    assert named(["*.0", "head"]) == ["decoder.0", "encoder.0", "head"]
    assert named(exclude="head") == ["decoder.0", "decoder.2", "encoder.0", "encoder.2"]
    assert named("*coder.*", ["*.2"]) == ["decoder.0", "encoder.0"]


@pytest.mark.parametrize("patterns", [{"include": "haed"}, {"exclude": ["head", "haed"]}])
def test_a_pattern_without_a_match_is_refused_before_anything_changes(patterns: dict[str, object]) -> None:
    model = nn.Sequential()
    model.add_module("head", nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="'haed' matches none of head"):
        convert_to_resu(model, **patterns)
    assert type(model.head) is nn.Linear


def test_a_module_of_two_names_is_excluded_by_either() -> None:
    model = convert_to_resu(Twice(), exclude=["again"])
    assert type(model.shared) is nn.Linear
    assert model.shared is model.again


def test_a_linear_layer_alone_is_replaced() -> None:
    linear = nn.Linear(3, 2)
    found = convert_to_resu(linear)
    assert isinstance(found, RESULinear)
    assert found.weight is linear.weight
    assert get_resu_modules(found) == {"": found}


def test_subclasses_and_converted_layers_are_left_alone() -> None:
    class Special(nn.Linear):
        pass

    model = nn.Sequential(Special(2, 2), RESULinear(2, 2))
    before = list(model)
    convert_to_resu(model)
    assert list(model) == before


def test_a_sparsified_weight_is_converted_in_place_only() -> None:
    model = nn.Sequential(nn.Linear(4, 2))
    sparsify(model[0].weight, SparseMask.random((2, 4), 0.5))
    with pytest.raises(PhaseError, match="INPLACE"):
        convert_to_resu(model)
    convert_to_resu(model, storage_mode=StorageMode.INPLACE)
    assert model[0].sparsity == 0.5


def test_the_name_of_a_layer_enters_its_noise() -> None:
    def noise(name: str) -> Tensor:
        torch.manual_seed(0)
        model = nn.Sequential()
        model.add_module(name, nn.Linear(8, 8))
        layer = get_resu_modules(convert_to_resu(model))[name]
        layer.prune_by_magnitude(0.5)
        layer.enter_resu_mode()
        return layer.resurrection.values()

    make: Callable[[str], Tensor] = noise
    assert torch.equal(make("a"), make("a"))
    assert not torch.equal(make("a"), make("b"))
