import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from sklearn.datasets import load_digits

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
