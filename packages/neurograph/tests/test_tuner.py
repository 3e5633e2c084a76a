"""A genome is settings, its fitness is accuracy on samples that were held out, and tuning stays within its limits."""

import random
from pathlib import Path

import pytest
import torch

from neurograph.config import Config
from neurograph.errors import ConfigError
from neurograph.model import Model
from neurograph.tuner import GENES, ShortTrainings, configured, integers_in, tune


@pytest.fixture(scope="module")
def stripes() -> tuple[Config, torch.Tensor, torch.Tensor]:
    """Two classes, of which each lights its own half of eight inputs."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(80) % 2
    x = torch.rand(80, 8, generator=generator) * 0.3
    x[:, :4] += 0.7 * y[:, None]
    x[:, 4:] += 0.7 * (1 - y)[:, None]
    config = Config.model_validate({"graph": {"widths": (8, 12, 2), "cardinality": 4}, "model": {"dim": 4}})
    return config, x, y


def test_any_genome_gives_settings_with_its_values() -> None:
    draw = random.Random(0)
    for _ in range(20):
        genome = {name: draw.choice(values) for name, values in GENES.items()}
        config = configured(Config(), genome)
        assert config.graph.widths == (64, *[genome["width"]] * genome["hidden_layers"], 10)
        assert config.graph.cardinality == genome["cardinality"]
        assert (config.model.dim, config.model.scale) == (genome["dim"], genome["scale"])
        assert (config.tables.phase_bins, config.tables.mag_bins) == (genome["phase_bins"], genome["mag_bins"])
        assert config.train.batch_size == genome["batch_size"]
        assert config.train.label_smoothing == genome["label_smoothing"]
        assert config.train.optimizer.lr_phase == genome["turn_rate"] * genome["phase_bins"]
        assert config.train.optimizer.lr_mag == genome["mag_rate"] * genome["mag_bins"]
        assert integers_in(config) == Model.build(config, seed=0).store.n_trainable


def test_genes_that_are_none_are_refused() -> None:
    with pytest.raises(ConfigError, match="knows the genes"):
        configured(Config(), {"warm_up": 3})
    blocks = Config.model_validate({"graph": {"n_inputs": 4, "n_hidden": 8, "n_outputs": 2}})
    with pytest.raises(ConfigError, match="a graph of blocks"):
        configured(blocks, {})
    with pytest.raises(ConfigError, match="can be run"):
        configured(Config(), {"dim": -1})


def test_the_objective_is_accuracy_on_samples_that_were_held_out(
    stripes: tuple[Config, torch.Tensor, torch.Tensor],
) -> None:
    config, x, y = stripes
    genome = {"batch_size": 8, "turn_rate": 0.02}
    good = ShortTrainings(config, x, y, epochs=6, repeats=1)
    shuffled = y[torch.randperm(80, generator=torch.Generator().manual_seed(1))]
    noise = ShortTrainings(config, x, shuffled, epochs=6, repeats=1)
    assert good(genome) > 0.9 > 0.75 > noise(genome)
    assert good(genome) == good(genome)
    assert good.fingerprint != noise.fingerprint
    assert good.fingerprint == ShortTrainings(config, x.clone(), y, epochs=6, repeats=1).fingerprint


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"repeats": 0}])
def test_trainings_that_train_nothing_are_refused(
    stripes: tuple[Config, torch.Tensor, torch.Tensor], wrong: dict[str, int]
) -> None:
    config, x, y = stripes
    with pytest.raises(ConfigError, match="an epoch or more, once or more"):
        tune(config, x, y, budget=1, **wrong)  # type: ignore[arg-type]


@pytest.mark.gpu
def test_trainings_run_where_the_settings_say(stripes: tuple[Config, torch.Tensor, torch.Tensor]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    config, x, y = stripes
    there = ShortTrainings(config.model_copy(update={"device": "cuda"}), x, y, epochs=6, repeats=1)
    assert there({"batch_size": 8, "turn_rate": 0.02}) > 0.9


def test_tuning_ends_in_settings_within_the_limit(
    stripes: tuple[Config, torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    config, x, y = stripes
    genes = {"width": (4, 8, 512), "batch_size": (8, 16), "label_smoothing": (0.0, 0.1)}
    arguments = {"budget": 6, "population": 4, "genes": genes, "max_integers": 500, "epochs": 2, "repeats": 1}
    told: list[int] = []
    found = tune(config, x, y, cache=tmp_path / "f", progress=lambda t: told.append(t.number), **arguments)  # type: ignore[arg-type]
    assert told == [1, 2, 3, 4, 5, 6]
    assert found.config.graph.widths == (8, found.best.genome["width"], 2)
    assert all(trial.genome["width"] < 512 for trial in found.trials)
    assert len((tmp_path / "f").read_text().splitlines()) == 6
    again = tune(config, x, y, cache=tmp_path / "f", **arguments)  # type: ignore[arg-type]
    assert again == found
