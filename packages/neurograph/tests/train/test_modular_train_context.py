import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from neurograph.checkpoint import save_checkpoint
from neurograph.config import Config, write_config
from neurograph.errors import CheckpointError, ConfigError, DataError, GraphError
from neurograph.reference.oracle_credit import align_by_node
from neurograph.train.modular_train_context import ModularTrainContext


def _config(**train: object) -> Config:
    return Config.model_validate(
        {
            "graph": {"n_inputs": 16, "n_hidden": 40, "n_outputs": 4, "cardinality": 6, "blocks": 2},
            "model": {"dim": 5},
            "train": {"epochs": 3, "batch_size": 16, **train},
        }
    )


def _samples(n: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(4, 16, generator=generator)
    y = torch.arange(n) % 4
    return (centres[y] + 0.05 * torch.randn(n, 16, generator=generator)).clamp(0, 1), y


def test_the_notes_code_block_runs_and_its_two_halves_agree() -> None:
    """The block of *NeuroGraph Performance Optimizations Summary*, its ellipses filled in."""
    self = ModularTrainContext(_config())
    self.forward_pass(_samples()[0][:1])
    active_nodes, target_vector = self.active_nodes(), self._target_vector(2)
    assert len(active_nodes) == 44

    # OLD: Sequential processing
    old = []
    for node_id in active_nodes:
        node_signal = self.lookup_tables.get_signal_vector(
            self.node_store.phase_of(node_id), self.node_store.mag_of(node_id)
        )
        cos_sim = F.cosine_similarity(node_signal, target_vector, dim=0)
        norm, target_norm = node_signal.norm(), target_vector.norm()
        old.append(-(target_vector / target_norm - node_signal * cos_sim / norm) / norm)

    # NEW: Vectorized processing
    _, node_signals, phase, mag = self._batch_get_node_signals(active_nodes)  # [N, D]
    cos_sims = F.cosine_similarity(node_signals, target_vector.expand(len(active_nodes), -1))  # [N]
    grad_signals = self._compute_vectorized_cosine_gradients(node_signals, target_vector, cos_sims)  # [N, D]

    torch.testing.assert_close(grad_signals, torch.stack(old), rtol=1e-5, atol=1e-6)
    assert node_signals.shape == grad_signals.shape == phase.shape == mag.shape == (44, 5)


def test_the_vectorised_credit_is_that_of_the_loop_over_nodes() -> None:
    context = ModularTrainContext(_config(accumulation=2))
    context.forward_pass(_samples()[0][:1])
    active = context.active_nodes()
    assert context.intermediate_credit(active, 1) is None
    due = context.intermediate_credit(active[:7], 3)
    assert due is not None
    store, rows = ModularTrainContext(_config()).node_store, [context._rows[name] for name in active]
    expected = np.zeros((2, 60, 5))
    for chosen, label in ((rows, 1), (rows[:7], 3)):
        target = context._target_vector(label).double().numpy()
        phase, mag = store.phase[chosen].long().numpy(), store.mag[chosen].long().numpy()
        expected[:, chosen] += np.stack(align_by_node(phase, mag, context.lookup_tables, target)) / 2 * 2**0.5
    np.testing.assert_allclose(due.phase.numpy(), expected[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(due.mag.numpy(), expected[1], rtol=1e-4, atol=1e-6)


@given(
    seed=st.integers(0, 2**31), dim=st.integers(2, 6), count=st.integers(0, 12),
    bins=st.sampled_from(
        [(512, 1024, "exp_sin", "half_open"), (32, 64, "sigmoid", "inclusive"), (7, 9, "exp", "inclusive")]
    ),
)  # fmt: skip
def test_the_methods_of_the_note_agree_with_nodes_one_at_a_time(
    seed: int, dim: int, count: int, bins: tuple[int, int, str, str]
) -> None:
    """Rows in any order and more than once; against float64, and through the step that indices take."""
    tables = dict(zip(("phase_bins", "mag_bins", "magnitude", "grid"), bins, strict=True))
    settings = {
        "graph": {"n_inputs": 3, "n_hidden": 5, "n_outputs": 3, "cardinality": 2}, "model": {"dim": dim},
        "train": {"optimizer": {"kind": "sgd", "lr_phase": 3.0, "lr_mag": 2.0}}, "tables": tables, "seed": seed,
    }  # fmt: skip
    context = ModularTrainContext(Config.model_validate(settings))
    generator, store, t = np.random.default_rng(seed), context.node_store, context.lookup_tables
    store.set_(*(torch.from_numpy(generator.integers(n, size=(11, dim))) for n in bins[:2]))
    rows = generator.integers(11, size=count)
    target = context._target_vector(1).double().numpy()
    phase, mag = (table.long().numpy() for table in (store.phase, store.mag))
    ids, signals, own_phase, own_mag = context._batch_get_node_signals(torch.from_numpy(rows))
    assert ids.tolist() == rows.tolist()
    expected = t.cos.double().numpy()[phase[rows]] * t.mag.double().numpy()[mag[rows]]
    np.testing.assert_allclose(signals.numpy(), expected, rtol=1e-6, atol=1e-7)
    # A vector of rounding errors has no direction.
    assume(np.linalg.norm(target) > 0.05)
    assume(count == 0 or np.linalg.norm(expected, axis=1).min() > 0.05)
    cos = F.cosine_similarity(signals, torch.from_numpy(target).float().expand_as(signals))
    gradient = context._compute_vectorized_cosine_gradients(signals, torch.from_numpy(target).float(), cos)
    found = context._compute_vectorized_discrete_gradients(own_phase, own_mag, gradient)
    one_by_one = align_by_node(phase[rows], mag[rows], t, target)
    for mine, theirs in zip(found, one_by_one, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs, rtol=1e-3, atol=2e-4)
    due = context.intermediate_credit(ids, 1)
    assert due is not None
    # Whole steps and what is carried are −rate times the gradient per step of an index, summed over repeated rows.
    parts = ((0, 3.0, t.phase_step, phase, True), (1, 2.0, t.mag_step, mag, t.wraps_magnitude))
    for part, rate, width, before, wraps in parts:
        total = np.zeros((11, dim))
        np.add.at(total, rows, one_by_one[part])
        wanted = -rate * width * total
        if part:
            wanted[:3] = 0  # magnitudes of inputs
        steps = np.rint(wanted)
        assume((np.abs(np.abs(wanted - steps) - 0.5) > 1e-2).all())
        reached = before + steps.astype(np.int64)
        bound = bins[part]
        after = reached % bound if wraps else reached.clip(0, bound - 1)
        assert ((store.phase, store.mag)[part].numpy() == after).all()
        np.testing.assert_allclose(context.trainer.optimizer.residual[part].numpy(), wanted - steps, atol=5e-3)


def test_the_notes_rule_aligns_nodes_with_their_class() -> None:
    context = ModularTrainContext(_config(optimizer={"kind": "sgd", "lr_phase": 2000.0, "lr_mag": 2000.0}))
    rows = torch.arange(16, 60)
    target = context._target_vector(0)

    def mean_cosine() -> float:
        signals = context._batch_get_node_signals(rows).signals
        return float(F.cosine_similarity(signals, target.expand_as(signals)).mean())

    before = mean_cosine()
    for _ in range(60):
        context.intermediate_credit(rows, 0)
    assert before < 0.5 < mean_cosine()
    assert context.target_lookups == 1


def test_target_vectors_are_computed_once_a_class() -> None:
    context = ModularTrainContext(_config())
    for label in [0, 1, 0, 2, 1, 0]:
        context.intermediate_credit(["n20", "n21"], label)
    assert context.target_lookups == len(context._cached_target_vectors) == 3
    torch.testing.assert_close(
        context._cached_target_vectors[2], context.class_codes.signals(context.lookup_tables)[2], rtol=0, atol=0
    )


def test_names_and_rows_give_the_same_signals() -> None:
    context = ModularTrainContext(_config())
    by_name = context._batch_get_node_signals(["n3", "n50"])
    by_row = context._batch_get_node_signals(torch.tensor([3, 50]))
    assert by_name.ids.tolist() == [3, 50]
    assert torch.equal(by_name.signals, by_row.signals)


def test_accumulated_credit_moves_indices_at_every_nth_sample_and_at_the_end() -> None:
    context = ModularTrainContext(_config(accumulation=4))
    versions = []
    for _ in range(6):
        context.intermediate_credit(["n20"], 0)
        versions.append(context.node_store.version)
    assert versions == [0, 0, 0, 1, 1, 1]
    rest = context.apply_accumulated(flush=True)
    assert rest is not None
    assert rest.size == 2
    assert context.node_store.version == 2
    assert context.apply_accumulated(flush=True) is None


@pytest.mark.parametrize("credit", ["exact", "contrastive"])
def test_a_context_learns(credit: str) -> None:
    x, y = _samples(256)
    context = ModularTrainContext(_config(credit=credit, epochs=8))
    rows = context.train(x, y, validation=(x, y))
    assert len(rows) == 8
    assert context.evaluate_accuracy(x, y) == rows[-1].accuracy > 0.9


def test_single_samples_and_batches_are_steps() -> None:
    x, y = _samples()
    context = ModularTrainContext(_config())
    assert context.train_step(x[0], 0) > 0
    assert context.train_step(x, y) > 0
    assert context.node_store.version == 2


def test_a_context_goes_on_from_its_file_bit_for_bit(tmp_path: object) -> None:
    x, y = _samples()
    whole, first, second = (ModularTrainContext(_config()) for _ in range(3))
    whole.train(x, y)
    first.train(x, y, until=1)
    path = first.save_checkpoint(tmp_path / "run.safetensors")
    second.load_checkpoint(path)
    second.train(x, y)
    assert torch.equal(second.node_store.phase, whole.node_store.phase)
    assert torch.equal(second.node_store.mag, whole.node_store.mag)
    assert [row.loss for row in second.trainer.history] == [row.loss for row in whole.trainer.history]


def test_steps_and_credit_that_were_collected_are_in_the_file(tmp_path: object) -> None:
    x, y = _samples()
    whole, first, second, bare = (ModularTrainContext(_config(accumulation=4)) for _ in range(4))

    def run(context: ModularTrainContext, steps: range) -> None:
        for step in steps:
            context.train_step(x[8 * step : 8 * step + 8], y[8 * step : 8 * step + 8])
            context.intermediate_credit(["n20", "n30"], step % 4)

    run(whole, range(7))
    run(first, range(3))
    second.intermediate_credit(["n40"], 0)  # forgotten
    second.load_checkpoint(first.save_checkpoint(tmp_path / "run.safetensors"))
    assert (second.accumulator.count, second.trainer.accumulator.count) == (3, 3)
    run(second, range(3, 7))
    assert torch.equal(second.node_store.phase, whole.node_store.phase)
    assert torch.equal(second.node_store.mag, whole.node_store.mag)
    assert whole.node_store.version == 2
    # A trainer's own file has no credit of a context.
    save_checkpoint(tmp_path / "bare", first.trainer.state_dict(), first.config, classes=tuple("0123"))
    bare.intermediate_credit(["n40"], 0)
    bare.load_checkpoint(tmp_path / "bare")
    assert bare.accumulator.count == 0


def test_a_file_of_other_settings_is_refused(tmp_path: object) -> None:
    path = ModularTrainContext(_config()).save_checkpoint(tmp_path / "run.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.dim|train\.batch_size"):
        ModularTrainContext(_config(batch_size=8)).load_checkpoint(path)
    with pytest.raises(CheckpointError, match="n_classes=4"):
        ModularTrainContext(_config(), n_classes=3).load_checkpoint(path)


def test_settings_come_by_name_and_from_a_file(tmp_path: object) -> None:
    write_config(tmp_path / "mine.yaml", _config())
    assert ModularTrainContext(tmp_path / "mine.yaml").config == _config()
    note = ModularTrainContext()
    assert (note.model.topology.n_nodes, note.node_store.dim) == (1000, 5)
    with pytest.raises(ConfigError, match="neither"):
        ModularTrainContext("no-such-settings")


def test_wide_samples_go_through_a_fixed_projection() -> None:
    context = ModularTrainContext(_config())
    state = context.forward_pass(torch.rand(3, 784))
    assert state.planar.shape == (60, 3, 2, 5)
    assert context.forward_pass(torch.rand(3, 16)).planar.shape == (60, 3, 2, 5)
    with pytest.raises(DataError, match="784 features"):
        context.forward_pass(torch.rand(3, 785))


def test_the_summary_counts_and_diagnoses() -> None:
    context = ModularTrainContext(_config())
    assert "flow" not in context.get_diagnostic_summary()
    x, y = _samples()
    context.train_step(x, y)
    context.intermediate_credit(["n20"], 0)
    version = context.node_store.version
    summary = context.get_diagnostic_summary(steps=2)
    assert context.node_store.version == version
    assert (summary["applied"], summary["target_vectors_computed"]) == (1, 1)
    assert summary["trainable_integers"] == context.node_store.n_trainable
    assert summary["flow"] in {"normal", "sparse", "uniform"}
    assert summary["effectiveness"].steps == 2
    assert len(summary["levels"]) == len(context.model.topology.levels)


def test_the_notes_monitoring_snippet_runs(capsys: pytest.CaptureFixture[str]) -> None:
    context = ModularTrainContext(_config())
    context.print_cache_performance()
    stats = context.get_cache_stats()
    print(f"Overall hit rate: {stats['overall_hit_rate']:.1%}")
    assert "Overall hit rate: " in capsys.readouterr().out


def test_what_does_not_fit_is_refused() -> None:
    context = ModularTrainContext(_config())
    with pytest.raises(DataError, match="Call forward_pass first"):
        context.active_nodes()
    with pytest.raises(GraphError, match="'n999' is none"):
        context._batch_get_node_signals(["n999"])
    for row in (-1, 60):
        with pytest.raises(GraphError, match="rows are 0 to 59"):
            context.intermediate_credit(torch.tensor([3, row]), 0)
    context.forward_pass(torch.rand(2, 16))
    for sample in (-1, 2):
        with pytest.raises(DataError, match="are 0 to 1; got"):
            context.active_nodes(sample)
    with pytest.raises(DataError, match="got 4"):
        context.intermediate_credit(["n20"], 4)
    with pytest.raises(DataError, match="Match them"):
        context.train_step(torch.rand(2, 16), torch.tensor([1]))
    with pytest.raises(DataError, match="Flatten pictures"):
        context.forward_pass(torch.rand(2, 4, 4))


@pytest.mark.slow
def test_the_notes_size_learns_digits() -> None:
    digits = load_digits()
    x, y = torch.from_numpy(digits.data / 16).float(), torch.from_numpy(digits.target)
    context = ModularTrainContext("note")
    context.train(x[:1437], y[:1437])
    assert context.evaluate_accuracy(x[1437:], y[1437:]) > 0.85
