"""The reconstruction shows what was found in the original: counts, defects, and training that trains nothing."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from neurograph.errors import ConfigError, DataError
from neurograph.reference.original import OPTIMIZATIONS, OriginalEngine, OriginalSettings, OriginalTrainContext
from neurograph.reference.original import engine as engine_module
from neurograph.reference.original.accumulator import OriginalAccumulator
from neurograph.reference.original.activation import OriginalActivationTable
from neurograph.reference.original.engine import cell
from neurograph.reference.original.graph import OriginalNodeStore, build_frame, row_connections
from neurograph.reference.original.inputs import OriginalAdapter, class_codes
from neurograph.reference.original.radiation import exact_neighbors
from neurograph.reference.original.tables import OriginalTables, make_tables

SMALL = OriginalSettings(n_inputs=30, n_hidden=60, n_outputs=10, pixels=8, accumulation=2)


def pictures(count: int, side: int = 8) -> Tensor:
    return torch.rand(count, side, side, generator=torch.Generator().manual_seed(7))


# --- graph and tables -------------------------------------------------------------------------------------------------


def test_the_graph_has_the_sizes_of_the_original() -> None:
    frame = build_frame()
    assert len(frame) == 1000
    assert int(frame.input_connections.map(len).sum()) == 4800
    assert frame.loc[frame.is_input, "input_connections"].map(len).max() == 0
    outputs = set(frame.loc[frame.is_output, "node_id"])
    assert outputs == {f"n{i}" for i in range(990, 1000)}
    for number, sources in enumerate(frame.input_connections):
        assert all(int(source[1:]) < number and source not in outputs for source in sources)
        assert len(set(sources)) == len(sources)
    assert row_connections(frame, "n700") == frame.input_connections[700]


def test_tables_by_hand() -> None:
    tables = make_tables()
    assert tables.nbytes == 4 * (32 + 32 + 512 + 512)
    p, m = torch.tensor([0, 4, 31]), torch.tensor([0, 511, 100])
    x = -3 + 6 * np.array([0, 511, 100]) / 511
    angle = 2 * np.pi * np.array([0, 4, 31]) / 32
    np.testing.assert_allclose(tables.get_signal_vector(p, m), np.cos(angle) * np.exp(x), rtol=1e-6)
    phase_grad, mag_grad = tables.compute_signal_gradients(p, m, torch.full((3,), 2.0))
    np.testing.assert_allclose(phase_grad, -2 * np.sin(angle) * np.exp(x), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(mag_grad, 2 * np.cos(angle) * np.exp(x), rtol=1e-6)
    assert float(tables.mag[0]) == pytest.approx(math.exp(-3))
    assert float(tables.lookup_magnitude(torch.tensor([9999]))[0]) == pytest.approx(math.exp(3))  # clamped


def test_the_decorator_compiles_no_method_and_falls_back() -> None:
    coded = make_tables("as_coded")
    assert "has no attribute" in coded.jit_failure
    assert type(coded).get_signal_vector is OriginalTables.get_signal_vector
    assert type(coded).compute_signal_gradients is OriginalTables.compute_signal_gradients


@pytest.mark.parametrize("jit", ["as_coded", "compiled"])
def test_every_form_of_the_lookups_is_the_same(jit: str) -> None:
    plain, other = make_tables(), make_tables(jit)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    p, m = torch.randint(-3, 40, (50, 5), generator=generator), torch.randint(-9, 600, (50, 5), generator=generator)
    g = torch.randn(50, 5, generator=generator)
    assert torch.equal(plain.get_signal_vector(p, m), other.get_signal_vector(p, m))
    for a, b in zip(plain.compute_signal_gradients(p, m, g), other.compute_signal_gradients(p, m, g), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=0)


def test_the_compiled_form_runs_compiled_code() -> None:
    assert isinstance(make_tables("compiled")._signal, torch._C.ScriptFunction | torch.jit.ScriptFunction)  # type: ignore[attr-defined]


# --- activation and cell ----------------------------------------------------------------------------------------------


def _ones(value: int) -> Tensor:
    return torch.full((5,), value)


def test_two_hundred_nodes_lie_in_a_hundred_slots() -> None:
    table = OriginalActivationTable(1000, 5, 32, 512)
    for number in range(200):
        table.inject(f"n{number}", _ones(number % 32), _ones(number), 1.0)
    assert int(table.active.sum()) == len(table.active_contexts()) == 100
    assert len(table.active_nodes()) == 200
    held = {node: table.context_of(node) for node in table.active_nodes()}
    foreign = [node for node, got in held.items() if got is not None and int(got[1][0]) != int(node[1:])]
    assert foreign == [f"n{number}" for number in range(0, 200, 2)]
    right = OriginalActivationTable(1000, 5, 32, 512, shared_slots=False)
    for number in range(200):
        right.inject(f"n{number}", _ones(number % 32), _ones(number), 1.0)
    assert int(right.active.sum()) == 200


def test_an_active_node_adds_modulo_bins_and_strength_decays_until_it_is_pruned() -> None:
    table = OriginalActivationTable(10, 5, 32, 512)
    table.inject("n1", _ones(30), _ones(500), 0.05)
    table.inject("n1", _ones(5), _ones(20), 0.01)
    held = table.context_of("n1")
    assert held is not None
    assert (held[0].tolist(), held[1].tolist()) == ([3] * 5, [8] * 5)
    table.decay_and_prune()  # 0.06 · 0.9 = 0.054
    assert table.active_nodes() == ["n1"]
    table.decay_and_prune()  # 0.0486
    assert table.context_of("n1") is None


def test_the_cell_by_hand() -> None:
    tables = make_tables()
    context, own = (_ones(20), _ones(300)), (_ones(28), _ones(411))
    phase, mag, strength = cell(context, own, tables)
    assert (phase.tolist(), mag.tolist()) == ([16] * 5, [199] * 5)  # 48 mod 32, 711 mod 512
    assert strength == pytest.approx(5 * math.exp(-3 + 6 * 199 / 511), rel=1e-6)  # |cos π| = 1


# --- forward ----------------------------------------------------------------------------------------------------------


def _quick_radiation(
    node: str, ctx: Tensor, store: OriginalNodeStore, frame: pd.DataFrame, tables: OriginalTables, k: int, _: object
) -> list[str]:
    """The same neighbours from one stacked matrix, so that counts of eight full samples take seconds."""
    if getattr(store, "stacked", None) is None:
        store.stacked = torch.stack([store.get_phase(name) for name in store.ids])
    scores = tables.lookup_phase((ctx + store.stacked) % tables.phase_bins).sum(dim=1)
    scores[[int(name[1:]) for name in (*frame.input_connections[int(node[1:])], node)]] = -math.inf
    return [store.ids[place] for place in torch.topk(scores, k).indices.tolist()]


def test_the_quick_radiation_of_the_next_test_finds_the_same_nodes() -> None:
    engine = OriginalEngine(SMALL)
    for number in range(0, 100, 7):
        ctx = engine.store.get_phase(f"n{(number * 13) % 100}")
        rest = (engine.store, engine.frame, engine.tables, 6)
        assert set(exact_neighbors(f"n{number}", ctx, *rest)) == set(_quick_radiation(f"n{number}", ctx, *rest, None))


@pytest.mark.slow
@pytest.mark.needs_extra("sklearn")
def test_radiation_queries_a_sample_are_those_of_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn import datasets

    monkeypatch.setattr(engine_module, "get_radiation_neighbors", _quick_radiation)
    rows: dict[str, list[str]] = {}

    def connections(frame: pd.DataFrame, node: str) -> list[str]:
        if not rows:
            rows.update(zip(frame.node_id, frame.input_connections, strict=True))
        return rows[node]

    monkeypatch.setattr(engine_module, "row_connections", connections)
    settings = OriginalSettings()
    engine, adapter = OriginalEngine(settings), OriginalAdapter(settings)
    active = []
    for image in datasets.load_digits().images[:4]:
        engine.forward(*adapter(torch.tensor(image / 16).float()))
        active.append(engine.counts.active)
    assert 297 <= engine.queries_a_sample <= 363
    # The original's active nodes at the end: 581 to 937.
    assert all(581 <= count <= 937 for count in active)


def test_inputs_reach_others_by_radiation_alone() -> None:
    engine = OriginalEngine(replace(SMALL, max_steps=2))
    engine.forward(*OriginalAdapter(SMALL)(pictures(1)[0]))
    assert engine.counts.steps == 1
    assert engine.counts.queries == 15  # 30 inputs in 15 slots
    assert engine.counts.messages == 15 * 6  # no static ones


def test_messages_and_queries_are_counted_with_static_targets() -> None:
    engine = OriginalEngine(replace(SMALL, max_steps=3))
    engine.forward(*OriginalAdapter(SMALL)(pictures(1)[0]))
    second = engine.counts.queries - 15
    assert engine.counts.steps == 2
    assert 15 * 6 + second * 6 < engine.counts.messages <= 15 * 6 + second * 12


@pytest.mark.slow
def test_the_same_in_every_process_whatever_the_hash_seed() -> None:
    code = (
        "import torch\n"
        "from neurograph.reference.original import OriginalSettings, OriginalTrainContext\n"
        "s = OriginalSettings(n_inputs=30, n_hidden=60, n_outputs=10, pixels=8)\n"
        "c = OriginalTrainContext(s, {'cache', 'credit'})\n"
        "p = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(7))\n"
        "print([c.train_step(x, i) for i, x in enumerate(p)], c.engine.total_queries, c.engine.caches.hits)\n"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, check=True, capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(found) == 1
    assert "[" in found.pop()


# --- inputs -----------------------------------------------------------------------------------------------------------


def test_the_adapter_has_the_size_of_the_original() -> None:
    adapter = OriginalAdapter(OriginalSettings())
    assert adapter.nbytes == 4 * (784 * 2000 + 2000 + 2 * 2000)
    phase, mag = adapter(pictures(1)[0])
    assert phase.shape == mag.shape == (200, 5)
    assert (int(phase.min()), int(phase.max())) == (0, 31)
    assert (int(mag.min()), int(mag.max())) == (0, 511)


def test_dropout_left_on_gives_two_contexts_of_one_picture() -> None:
    adapter, picture = OriginalAdapter(SMALL), pictures(1)[0]
    assert not torch.equal(adapter(picture)[0], adapter(picture)[0])
    adapter.eval()
    assert torch.equal(adapter(picture)[0], adapter(picture)[0])


def test_ten_codes_in_five_dimensions_are_not_orthogonal() -> None:
    tables = make_tables()
    vectors = torch.nn.functional.normalize(tables.get_signal_vector(*class_codes(OriginalSettings(), tables)), dim=1)
    gram = (vectors @ vectors.T).abs() - torch.eye(10)
    assert float(gram.max()) > 1 / 3  # Welch's bound for ten in five


# --- training ---------------------------------------------------------------------------------------------------------


def test_true_and_shuffled_labels_leave_the_same_parameters() -> None:
    digests, losses = [], []
    for labels in ([3, 1, 4], [4, 3, 1]):
        context = OriginalTrainContext(SMALL, {"credit"})
        fresh = context.digest()
        losses.append([context.train_step(x, y) for x, y in zip(pictures(3), labels, strict=True)])
        digests.append(context.digest())
        assert context.digest() == fresh  # nothing changes at all
        assert context.accumulator.applied == 0
        assert context.accumulator.stored > 0
    assert digests[0] == digests[1]
    assert losses[0] != losses[1]  # the labels did arrive


def test_the_accumulator_never_fires_and_what_it_would_do_is_known_by_name() -> None:
    frame = build_frame(4, 2, 2)
    store = OriginalNodeStore(frame, 2, 32, 512)
    accumulator = OriginalAccumulator(every=4, lr_phase=0.5, lr_mag=0.25)
    fired = []
    for _ in range(40):
        accumulator.accumulate("n5", torch.tensor([1.0, -2.0]), torch.tensor([3.0, 0.0]))
        if accumulator.should_update():
            fired.append(accumulator.apply(store, 32, 512))
    assert fired
    assert set(fired) == {0}
    assert accumulator.applied == 0
    assert accumulator.stored == 80  # never cleared
    (phase, mag) = accumulator.updates(store, 32, 512)["n5"]
    # lr · √4 · mean: 1, −2 and 1.5, cut to integers.
    assert phase.tolist() == [(int(store.get_phase("n5")[0]) - 1) % 32, (int(store.get_phase("n5")[1]) + 2) % 32]
    assert int(mag[0]) == math.floor((int(store.get_mag("n5")[0]) - 1.5) % 512)
    assert not any(number in accumulator.updates(store, 32, 512) for number in range(8))


def test_the_trainer_takes_middle_nodes_for_outputs() -> None:
    context = OriginalTrainContext(SMALL)
    assert context.believed_outputs == tuple(f"n{i}" for i in range(30, 40))
    assert not set(context.believed_outputs) & context.engine.outputs
    assert 0 <= context.predict(pictures(1)[0]) < 10


SUBSETS = [frozenset(s) for n in range(4) for s in combinations(OPTIMIZATIONS, n)]


@pytest.mark.parametrize("chosen", SUBSETS, ids=lambda s: "+".join(sorted(s)) or "none")
def test_every_subset_of_the_optimizations_has_the_same_face(chosen: frozenset[str]) -> None:
    context = OriginalTrainContext(SMALL, chosen)
    losses = [context.train_step(x, y) for x, y in zip(pictures(2), (3, 1), strict=True)]
    assert all(math.isfinite(loss) for loss in losses)
    assert (context.engine.caches is not None) == ("cache" in chosen)
    assert (len(context.credit._cached_target_vectors) > 0) == ("credit" in chosen)
    if "cache" not in chosen:
        plain = OriginalTrainContext(SMALL)
        assert losses == [plain.train_step(x, y) for x, y in zip(pictures(2), (3, 1), strict=True)]


def test_context_bytes() -> None:
    parts = OriginalTrainContext(SMALL).context_bytes
    assert parts["tables"] == 4352
    assert parts["parameters"] == 100 * 5 * 8 * 2
    assert parts["activation"] == 100 * (5 * 8 * 2 + 4 + 1)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: OriginalTrainContext(SMALL, {"cahce"}), ConfigError, "cahce"),
        (lambda: OriginalTrainContext(SMALL).train_step(pictures(1)[0], 10), DataError, "got 10"),
    ],
)
def test_what_cannot_be_is_refused(call: Callable[[], object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()
