"""Everything on the device that was asked for: the same answers on a GPU, and the same test on the CPU beside it."""

import pytest
import torch

from neurograph.adapters import FixedProjection
from neurograph.config import Config
from neurograph.core.engine import ForwardEngine
from neurograph.core.graph import Topology, build_static_graph
from neurograph.core.high_res_tables import HighResolutionLookupTables
from neurograph.core.node_store import NodeStore
from neurograph.core.radiation import radiate
from neurograph.data import shift_pictures
from neurograph.errors import ConfigError
from neurograph.evaluation import evaluate
from neurograph.export import integers_of
from neurograph.model import Model
from neurograph.optim import DiscreteAdam, DiscreteSGD
from neurograph.reference.engine import ReferenceEngine
from neurograph.train.modular_train_context import ModularTrainContext
from neurograph.train.trainer import Trainer

TOPOLOGY = Topology.from_frame(build_static_graph(6, 14, 3, cardinality=4, blocks=3, seed=1))
TABLES = HighResolutionLookupTables(64, 96)
SETTINGS = {"graph": {"widths": [16, 24, 4], "cardinality": 8}, "train": {"epochs": 2, "batch_size": 16}}


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return str(request.param)


def _samples(n: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("merge", ["superpose", "modular"])
@pytest.mark.parametrize("backend", ["dense", "sparse", "gather"])
def test_back_ends_agree_with_the_reference(device: str, backend, merge) -> None:
    store, x = NodeStore.random(TOPOLOGY, 4, TABLES, seed=3), _samples(9, 6)
    there = TOPOLOGY.to(device)
    engine = ForwardEngine(there, TABLES.to(device), backend=backend, merge=merge, snap=merge == "modular")
    found = engine(x.to(device), store.to(device)).planar
    assert found.device.type == device
    expected = ReferenceEngine(TOPOLOGY, TABLES, merge=merge, snap=merge == "modular")(x, store)
    torch.testing.assert_close(found.cpu(), expected.planar.float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", ["dense", "sparse", "gather"])
def test_gradients_are_those_of_the_cpu(device: str, backend) -> None:
    store, x = NodeStore.random(TOPOLOGY, 4, TABLES, seed=3), _samples(9, 6)
    found = []
    for place, name in ((device, backend), ("cpu", "gather")):
        moved = store.to(place)
        engine = ForwardEngine(TOPOLOGY.to(place), TABLES.to(place), backend=name, snap=False)
        leaves = moved.leaves()
        found.append(torch.autograd.grad(engine(x.to(place), leaves).readout.square().sum(), leaves))
    for one, other in zip(*found, strict=True):
        assert one.device.type == device
        torch.testing.assert_close(one.cpu(), other, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", [DiscreteSGD, DiscreteAdam])
def test_optimizers_take_the_same_steps(device: str, kind) -> None:
    stores = [NodeStore.random(TOPOLOGY, 4, TABLES, seed=3).to(place) for place in (device, "cpu")]
    for store in stores:
        optimizer = kind(store, 3.0, 2.0)
        for seed in range(4):
            gradients = [_samples(TOPOLOGY.n_nodes, 4, seed) - 0.5, _samples(TOPOLOGY.n_nodes, 4, seed + 9) - 0.5]
            optimizer.step(*(gradient.to(store.phase.device) for gradient in gradients))
    for name in ("phase", "mag"):
        far = getattr(stores[0], name).cpu().int() - getattr(stores[1], name).int()
        # A sum that falls on the middle between two steps may round either way.
        assert (far != 0).double().mean() < 0.02
        assert stores[0].phase.device.type == device


@pytest.mark.parametrize("credit", ["exact", "contrastive", "cosine"])
@pytest.mark.parametrize("radiation", [None, {"top_k": 2}])
def test_training_runs_where_it_was_asked_to(device: str, credit: str, radiation) -> None:
    train = SETTINGS["train"] | {"credit": credit, "shift_augment": True, "accumulation": 2}
    config = Config.model_validate(SETTINGS | {"train": train, "device": device, "radiation": radiation})
    model = Model.build(config, seed=0)
    before = model.store.clone()
    x, y = _samples(64, 16), torch.arange(64) % 4
    rows = Trainer(model, config.train).fit(x, y, validation=(x, y))
    assert model.store.phase.device.type == device
    assert (model.store.phase != before.phase).any()
    assert rows[-1].loss < 10
    assert 0 <= rows[-1].accuracy <= 1
    report = evaluate(model, x.to(device), y.to(device))
    assert report.accuracy == pytest.approx(rows[-1].accuracy)


def test_integers_of_a_device_give_its_predictions_on_the_cpu(device: str) -> None:
    model = Model.build(Config.model_validate(SETTINGS | {"device": device}), seed=1)
    x = _samples(200, 16)
    network, there = integers_of(model), model.predict(x).cpu()
    here = torch.as_tensor(network.predict(x.numpy()))
    assert (here == there).double().mean() >= 0.99


def test_radiation_answers_the_same(device: str) -> None:
    store = NodeStore.random(TOPOLOGY, 4, TABLES, seed=3)
    context = torch.randint(64, (5, TOPOLOGY.n_nodes, 4), generator=torch.Generator().manual_seed(1))
    sources = torch.arange(TOPOLOGY.n_nodes)
    there = radiate(context.to(device), sources.to(device), store.to(device), TOPOLOGY.to(device), 3)
    here = radiate(context, sources, store, TOPOLOGY, 3)
    assert there.index.device.type == device
    torch.testing.assert_close(there.score.cpu(), here.score, atol=1e-5, rtol=1e-5)


def test_shifts_and_adapters_stay_where_they_are(device: str) -> None:
    x = _samples(4, 64).to(device)
    assert shift_pictures(x, generator=torch.Generator().manual_seed(0)).device.type == device
    assert FixedProjection(64, 16, device=device)(x).device.type == device


def test_the_context_trains_on_it(device: str) -> None:
    context = ModularTrainContext(Config.model_validate(SETTINGS | {"device": device}))
    x, y = _samples(32, 16), torch.arange(32) % 4
    context.train_step(x.to(device), y.to(device))
    assert context.model.store.phase.device.type == device
    assert 0 <= context.evaluate_accuracy(x.to(device), y.to(device)) <= 1


def test_a_device_that_is_not_there_is_named() -> None:
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is there")
    with pytest.raises(ConfigError, match="needs a GPU"):
        Model.build(Config.model_validate(SETTINGS | {"device": "cuda"}))
