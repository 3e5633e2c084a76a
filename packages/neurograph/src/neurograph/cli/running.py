"""A run and its folder.

================================= ====================================================================================
config.yaml                       the settings
checkpoint.safetensors            the last epoch, whole
history.csv                       a row for each epoch
evaluation.json, confusion.csv    figures on the test samples
figures/                          pictures, PNG and SVG
integers/                         the network as `neurograph.export` writes it
================================= ====================================================================================
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neurograph import plots
from neurograph.checkpoint import Checkpoint, check_same_settings, load_checkpoint, save_checkpoint
from neurograph.config import Config, write_config
from neurograph.core.radiation import radiate
from neurograph.data import Dataset, check_samples, load_dataset
from neurograph.errors import CheckpointError, DataError
from neurograph.evaluation import Evaluation, evaluate
from neurograph.model import Model
from neurograph.train.trainer import EpochRow, Trainer

__all__ = [
    "CHECKPOINT", "Opened", "check_fit", "draw", "evaluated", "figures_of", "fitted", "history_of", "history_rows",
    "load_data", "open_run", "start", "train_on",
]  # fmt: skip

CHECKPOINT = "checkpoint.safetensors"
_RADIATION_SAMPLES = 64


class Opened(NamedTuple):
    """A run that was read from its folder.

    Args:
        folder: where it is.
        checkpoint: its last.
        model: its network.
    """

    folder: Path
    checkpoint: Checkpoint
    model: Model


def load_data(config: Config) -> Dataset:
    """The set that settings name.

    Args:
        config: settings.

    Returns:
        The set, on the CPU.
    """
    return load_dataset(config.data.name, seed=config.seed, test_share=config.data.test_share, root=config.data.root)


def fitted(config: Config, data: Dataset) -> Config:
    """Settings with as many input nodes as a sample has numbers.

    Args:
        config: settings.
        data: a set.

    Returns:
        The same settings where they fit already.
    """
    graph = config.graph
    if graph.inputs == data.n_features:
        return config
    if graph.widths is not None:
        changed = graph.model_copy(update={"widths": (data.n_features, *graph.widths[1:])})
    else:
        changed = graph.model_copy(update={"n_inputs": data.n_features})
    return config.model_copy(update={"graph": changed})


def start(config: Config, data: Dataset, folder: Path, *, resume: bool) -> Trainer:
    """A trainer for a new run, or for one that goes on.

    Args:
        config: settings.
        data: the set.
        folder: of the run.
        resume: go on where there is a checkpoint.

    Returns:
        The trainer.

    Raises:
        CheckpointError: a run that is there and was not to go on, or whose settings were others.
        DataError: samples that do not fit the graph, or that are to be shifted and are no square pictures.
    """
    check_samples(data.train_x, data.train_y, n_features=config.graph.inputs)
    if config.train.shift_augment and (data.picture is None or data.picture[0] != data.picture[1]):
        raise DataError(
            f"square pictures can be shifted; a sample of {data.name} is "
            f"{'none' if data.picture is None else f'one of {data.picture[0]} × {data.picture[1]}'}. "
            "Set train.shift_augment to false."
        )
    path = folder / CHECKPOINT
    if path.exists() and not resume:
        raise CheckpointError(
            f"a run is not written over; {folder} holds one. Go on with it by --resume, or choose another --out."
        )
    model = Model.build(config, n_classes=len(data.classes))
    trainer = Trainer(model, config.train, seed=config.seed)
    if path.exists():
        found = load_checkpoint(path)
        check_same_settings(found.config, config)
        trainer.load_state_dict(*found.state)
    write_config(folder / "config.yaml", config)
    return trainer


def train_on(
    trainer: Trainer, config: Config, data: Dataset, folder: Path, progress: Callable[[EpochRow], object]
) -> Path:
    """Trains to the end, with a checkpoint after each epoch.

    Args:
        trainer: from `start`.
        config: its settings.
        data: its set.
        folder: of the run.
        progress: told of each epoch, after it was saved.

    Returns:
        The checkpoint.
    """
    path = folder / CHECKPOINT

    def saved(row: EpochRow) -> None:
        save_checkpoint(path, trainer.state_dict(), config, classes=data.classes, picture=data.picture)
        progress(row)

    test = (data.test_x.to(config.device), data.test_y.to(config.device))
    trainer.fit(data.train_x, data.train_y, validation=test, progress=saved)
    return path


def open_run(place: Path, device: str | None = None) -> Opened:
    """A run from its folder, or from a checkpoint.

    Args:
        place: the folder or the file.
        device: where the network lives; None = where it was trained.

    Returns:
        The run.

    Raises:
        CheckpointError: nothing there, or a file that cannot be trusted.
    """
    path = place / CHECKPOINT if place.is_dir() else place
    if not path.exists():
        raise CheckpointError(f"the folder of a run holds {CHECKPOINT}; {place} does not. Train first, or correct it.")
    found = load_checkpoint(path)
    return Opened(path.parent, found, found.build_model(device))


def check_fit(model: Model, data: Dataset) -> None:
    """Says why a network cannot be evaluated on a set.

    Args:
        model: the network.
        data: the set.

    Raises:
        DataError: samples or classes that are not the network's.
    """
    if len(data.classes) != model.n_classes:
        raise DataError(
            f"a set has the classes that a network was trained for; {data.name} has {len(data.classes)}, the network "
            f"{model.n_classes}. Name the set it was trained on."
        )
    check_samples(data.test_x, data.test_y, n_features=len(model.topology.inputs), n_classes=model.n_classes)


def evaluated(model: Model, data: Dataset) -> Evaluation:
    """The network on the test samples of a set.

    Args:
        model: the network.
        data: the set.

    Returns:
        The evaluation.

    Raises:
        DataError: samples or classes that are not the network's.
    """
    check_fit(model, data)
    device = model.codes.device
    return evaluate(model, data.test_x.to(device), data.test_y.to(device), names=data.classes)


def figures_of(found: Evaluation) -> dict[str, Any]:
    """What an evaluation found, as JSON values.

    Args:
        found: the evaluation.

    Returns:
        By name.
    """
    return {
        "test_samples": found.n_samples,
        "accuracy": found.accuracy,
        "balanced_accuracy": found.balanced_accuracy,
        "loss": found.loss,
        **{f"top_{k}_accuracy": share for k, share in found.top_k.items() if k > 1},
    }


def draw(model: Model, history: list[EpochRow], data: Dataset, folder: Path, *, top_k: int = 4) -> list[Path]:
    """All pictures of a run; that of radiation only where a node has something to send, and another to send it to.

    Args:
        model: the network.
        history: its epochs.
        data: its set.
        folder: where to.
        top_k: links of a node in the radiation map, where the network itself does not radiate.

    Returns:
        The files.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    topology, device = model.topology, model.codes.device
    x, y = data.test_x.to(device), data.test_y.to(device)
    found = evaluate(model, x, y)
    with torch.no_grad():
        readout = torch.cat([model.state(part).readout for part in x.split(256)])
    means = torch.stack([readout[y == one].mean(0) for one in range(model.n_classes)])
    files = plots.plot_training(history, folder / "training")
    files += plots.plot_confusion(found.confusion, data.classes, folder / "confusion")
    files += plots.plot_indices(model.store, folder / "indices")
    files += plots.plot_graph(topology, folder / "graph")
    files += plots.plot_codes(model.codes, means, len(topology.outputs), data.classes, folder / "codes")
    sources, targets = _radiated(model, x[:_RADIATION_SAMPLES], top_k)
    if bool((targets >= 0).any()):
        used = model.engine.radiation is not None
        files += plots.plot_radiation(topology, sources, targets, folder / "radiation", used=used)
    return files


def history_of(checkpoint: Checkpoint) -> list[EpochRow]:
    """The epochs of a checkpoint.

    Args:
        checkpoint: from a file.

    Returns:
        One row an epoch.
    """
    return [EpochRow(**row) for row in checkpoint.values["history"]]


def history_rows(history: list[EpochRow]) -> list[dict[str, Any]]:
    """The same as JSON values.

    Args:
        history: epochs.

    Returns:
        One mapping an epoch.
    """
    return [asdict(row) for row in history]


def _radiated(model: Model, x: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Which nodes radiate, and whom they choose (−1 = nobody); with the network's own rule where it has one."""
    topology, engine = model.topology, model.engine
    with torch.no_grad():
        state = model.state(x)
    sources = torch.cat(topology.levels[:-1])
    choose = getattr(engine.radiation, "choose", None)
    if choose is None:
        sources = sources[~torch.isin(sources, topology.outputs)]
        phase = state.phase[sources].transpose(0, 1)
        chosen = radiate(phase, sources, model.store, topology, top_k).index
    else:
        own = model.store.phase.to(state.planar.dtype)
        levels = [choose(level, state.planar[rows], own) for level, rows in enumerate(topology.levels[:-1])]
        chosen = torch.cat(levels, dim=1)
    # A state of zeros has phases like any other, and sends nothing.
    silent = (state.planar[sources] == 0).flatten(2).all(2).T
    return sources, chosen.masked_fill(silent[..., None], -1)
