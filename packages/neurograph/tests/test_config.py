"""Settings: what is refused and how it is said, and that a file gives back what was written."""

from pathlib import Path

import pytest
from pydantic import ValidationError

import neurograph
from neurograph.config import (
    Config,
    GraphConfig,
    RadiationConfig,
    TrainConfig,
    load_config,
    overridden,
    read_config,
    ready_configs,
    write_config,
)
from neurograph.errors import ConfigError


def test_the_defaults_are_the_network_for_digits() -> None:
    config = Config()
    for shipped in (load_config("digits"), load_config()):
        assert (shipped.graph, shipped.tables, shipped.model) == (config.graph, config.tables, config.model)
        assert (shipped.train.epochs, shipped.train.batch_size, shipped.train.label_smoothing) == (40, 32, 0.1)
    assert (config.graph.widths, config.model.dim, config.graph.cardinality) == ((64, 256, 256, 10), 8, 16)
    assert (config.tables.phase_bins, config.tables.mag_bins) == (512, 1024)
    assert (config.train.optimizer.lr_phase, config.train.optimizer.lr_mag) == (4.0, 6.0)


@pytest.mark.parametrize(("name", "integers"), [("digits", 8864), ("digits-small", 4768), ("note", 9680)])
def test_ready_settings_have_as_many_integers_as_they_say(name: str, integers: int) -> None:
    graph, dim = load_config(name).graph, load_config(name).model.dim
    nodes = sum(graph.widths) if graph.widths else graph.inputs + (graph.n_hidden or 0) + graph.outputs
    assert dim * (2 * nodes - graph.inputs) == integers  # the magnitudes of inputs are not trained
    assert f"{integers:,}" in (Path(neurograph.__file__).parent / "configs" / f"{name}.yaml").read_text()


def test_ready_settings_are_the_ones_that_are_shipped() -> None:
    assert ready_configs() == ("digits", "digits-small", "note")
    note = load_config("note")
    assert note.graph.inputs + (note.graph.n_hidden or 0) + note.graph.outputs == 1000
    assert note.model.dim == 5


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        Config(graph=GraphConfig(n_inputs=3, n_hidden=4, n_outputs=2), radiation=RadiationConfig(top_k=2), threads=1),
        Config(seed=7, data={"name": "idx", "root": "some/where"}, train={"shift_augment": True}),  # type: ignore[arg-type]
    ],
    ids=["default", "blocks", "idx"],
)
def test_what_is_written_is_read_back(tmp_path: Path, config: Config) -> None:
    write_config(tmp_path / "new" / "config.yaml", config)
    assert read_config(tmp_path / "new" / "config.yaml") == config


def test_what_a_file_leaves_out_has_its_default(tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    path.write_text("seed: 5\n")
    assert read_config(path) == Config(seed=5)
    path.write_text("# nothing\n")
    assert read_config(path) == Config()


def test_changes_reach_every_depth_and_leave_the_rest() -> None:
    config = overridden(
        Config(),
        ["train.optimizer.lr_phase=1e-1", "graph.widths=[64, 32, 10]", "radiation.top_k=6", "seed=3", "data.name=wine"],
    )
    assert config.train.optimizer.lr_phase == 0.1
    assert config.train.optimizer.lr_mag == 6.0
    assert config.graph.widths == (64, 32, 10)
    assert config.radiation == RadiationConfig(top_k=6)
    assert (config.seed, config.data.name) == (3, "wine")
    assert overridden(config, ["radiation=null"]).radiation is None
    assert str(overridden(config, ["data.root=1e3"]).data.root) == "1e3"  # a folder, no number
    assert overridden(config, []) is config


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("graph.cardinalty=3", r"'cardinalty' does not\. Did you mean cardinality\?"),
        ("trian.epochs=3", "Did you mean train"),
        ("train.optimizer.lr=1", "Did you mean lr_"),
        ("zzzz=1", "Choose from graph, tables"),
        ("train.epochs=0", r"train\.epochs: .*greater than 0; got 0"),
        ("tables.phase_bins=1", r"tables\.phase_bins: .*2; got 1"),
        ("tables.mag_bins=40000", "32767"),
        ("model.merge=sum", r"model\.merge: .*'superpose' or 'modular'; got 'sum'"),
        ("graph.widths=[64]", r"graph\.widths"),
        ("graph.n_inputs=3", "Set widths to null"),
        ("graph.widths=null", "Give all three"),
        ("train.label_smoothing=1", "less than 1"),
        ("train.optimizer.lr_mag=.inf", "finite"),
        ("model.scale=.inf", "finite"),
        ("radiation.gain=.inf", "finite"),
        ("train.optimizer.betas=[0.9, .nan]", "finite"),
        ("seed=4294967296", "less than 4294967296"),
        ("graph.seed=-1", r"graph\.seed"),
        ("seed", "is written key=value"),
        ("=3", "is written key=value"),
        ("seed.deep=1", "single value, 0"),
        ("seed=[1", "it is not"),
        ("graph=null", "graph: .*got None"),
    ],
)
def test_what_cannot_be_run_is_refused_with_what_to_do(change: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        overridden(Config(), [change])


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="radiated messages"):
        overridden(Config(), ["radiation.top_k=4", "model.merge=modular"])
    with pytest.raises(ValidationError, match="Did you mean epochs"):
        TrainConfig(epoch=3)  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="frozen"):
        Config().seed = 3  # type: ignore[misc]


def test_files_that_are_no_settings_are_refused(tmp_path: Path) -> None:
    for text, said in (
        ("- 1\n", "names with values"),
        ("a: [", "could not be read"),
        ("graph: {a: 1}", "'a' does not"),
    ):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(ConfigError, match=said):
            read_config(tmp_path / "bad.yaml")
    with pytest.raises(ConfigError, match="could not be read"):
        read_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="Did you mean digits"):
        load_config("digitz")
