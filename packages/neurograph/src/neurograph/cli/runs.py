"""Commands about runs: `train`, `evaluate`, `plot`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neurograph.cli.options import (
    AsJson,
    ConfigName,
    DataName,
    Device,
    Folder,
    Overrides,
    Root,
    Seed,
    Threads,
    device_of,
    set_threads,
    settings_of,
    with_data,
)
from neurograph.cli.output import (
    print_facts,
    print_files,
    print_frame,
    print_json,
    progress,
    say,
    write_frame,
    write_json,
)

if TYPE_CHECKING:
    from neurograph.config import Config
    from neurograph.data import Dataset
    from neurograph.evaluation import Evaluation
    from neurograph.model import Model
    from neurograph.train.trainer import EpochRow, Trainer

__all__ = ["evaluate", "plot", "train"]

Require = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE", help="Exit with 1 where the accuracy is below, 0.973 for example.", show_default=False
    ),
]


def train(
    config: ConfigName = "digits",
    data: DataName = None,
    root: Root = None,
    overrides: Overrides = None,
    seed: Seed = None,
    threads: Threads = None,
    device: Device = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of the run.", show_default="runs/NAME of the data")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, if there is one.")] = False,
    pictures: Annotated[bool, typer.Option(help="Draw the run.")] = True,
    integers: Annotated[bool, typer.Option(help="Export the trained integers.")] = True,
    require: Require = None,
    as_json: AsJson = False,
) -> None:
    """Trains a network of integers, evaluates it, draws it and exports its integers.

    The graph gets as many input nodes as a sample of the data has numbers. A killed run goes on with --resume.

    Examples:
      neurograph train --data digits
      neurograph train --config digits-small --seed 100 --threads 1 --require 0.96
      neurograph train --data idx --root mnist --set train.shift_augment=true
      neurograph train --data wine --set graph.widths=[13,64,10] --set train.epochs=60 --set train.batch_size=16
    """
    from neurograph.cli import running

    settings = settings_of(config, overrides, data=data, root=root, seed=seed, threads=threads, device=device)
    samples = running.load_data(settings)
    settings, given = running.fitted(settings, samples), settings.graph.inputs
    if settings.graph.inputs != given and not as_json:
        say(f"the graph gets {settings.graph.inputs} input nodes, as many as a sample has numbers, in place of {given}")
    folder = out or Path("runs") / settings.data.name
    trainer = running.start(settings, samples, folder, resume=resume)
    if trainer.epoch and not as_json:
        say(f"going on after epoch {trainer.epoch} of {settings.train.epochs}")
    try:
        with progress(f"training on {settings.data.name}", settings.train.epochs, trainer.epoch) as report:
            checkpoint = running.train_on(
                trainer, settings, samples, folder, lambda row: report(row.epoch, _words(row.loss, row.accuracy))
            )
    except KeyboardInterrupt:
        say(f"stopped; the epochs that were done are in {folder}: go on with --resume")
        raise
    found = running.evaluated(trainer.model, samples)
    files = [folder / "config.yaml", checkpoint, *_tables(folder, trainer.history, found)]
    if pictures:
        files += _pictures(trainer.model, trainer.history, samples, folder / "figures")
    exported = _exported(trainer.model, folder / "integers") if integers else {}
    if exported:
        files.append(folder / "integers")
    figures = {**_described(settings, trainer, samples), **running.figures_of(found), **exported}
    if as_json:
        print_json({
            "kind": "train", "settings": settings.model_dump(mode="json"), "figures": figures,
            "history": running.history_rows(trainer.history), "files": [str(file) for file in files],
        })  # fmt: skip
    else:
        print_facts(f"{folder} on {settings.data.name}", figures)
        print_frame("Test samples by class", found.to_frame())
        print_files(files)
    _exit(found.accuracy, require)


def evaluate(
    folder: Folder,
    data: DataName = None,
    root: Root = None,
    threads: Threads = None,
    device: Device = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Write each test sample's classes and probability.")
    ] = None,
    require: Require = None,
    as_json: AsJson = False,
) -> None:
    """Evaluates a run's last checkpoint on its test samples.

    Examples:
      neurograph evaluate runs/digits
      neurograph evaluate runs/digits --require 0.97 --json
      neurograph evaluate runs/idx --root other-files --out predictions.csv
    """
    from neurograph.cli import running

    set_threads(threads)
    run = running.open_run(folder, device_of(device))
    samples = running.load_data(with_data(run.checkpoint.config, data, root))
    found = running.evaluated(run.model, samples)
    files = [] if out is None else [_predictions(out, run.model, samples)]
    figures = {"epoch": run.checkpoint.epoch, **running.figures_of(found)}
    if as_json:
        print_json({
            "kind": "evaluate", "figures": figures, "classes": list(samples.classes),
            "confusion": found.confusion.tolist(), "files": [str(file) for file in files],
        })  # fmt: skip
    else:
        print_facts(f"{folder} on {samples.name}", figures)
        print_frame("By class", found.to_frame())
        print_frame("Predicted (columns)", found.confusion_frame().reset_index())
        print_files(files)
    _exit(found.accuracy, require)


def plot(
    folder: Folder,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where to.", show_default="figures in the run's folder")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Links of a node in the radiation map, if radiation is off.")] = 4,
    root: Root = None,
    threads: Threads = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Draws a run: training, confusions, histograms of the integers, the graph, the codes, a radiation map.

    Examples:
      neurograph plot runs/digits
      neurograph plot runs/digits --out pictures
    """
    from neurograph.cli import running

    set_threads(threads)
    run = running.open_run(folder, device_of(device))
    samples = running.load_data(with_data(run.checkpoint.config, None, root))
    running.check_fit(run.model, samples)
    history = running.history_of(run.checkpoint)
    files = running.draw(run.model, history, samples, out or run.folder / "figures", top_k=top_k)
    if as_json:
        return print_json({"kind": "plot", "files": [str(file) for file in files]})
    return print_files(files)


# --- what they write --------------------------------------------------------------------------------------------------


def _words(loss: float, accuracy: float | None) -> str:
    return f"loss {loss:.4f}" + ("" if accuracy is None else f", accuracy {100 * accuracy:.2f} %")


def _described(config: "Config", trainer: "Trainer", data: "Dataset") -> dict[str, Any]:
    graph, model = config.graph, trainer.model
    counts = graph.widths or (graph.n_inputs, graph.n_hidden, graph.n_outputs)
    return {
        "graph": "-".join(map(str, counts)),
        "edges": len(model.topology.src),
        "trained_integers": model.store.n_trainable,
        "training_samples": len(data.train_y),
        "seed": config.seed,
        "epoch": trainer.epoch,
    }


def _tables(folder: Path, history: "list[EpochRow]", found: "Evaluation") -> list[Path]:
    import pandas as pd

    from neurograph.cli.running import figures_of, history_rows

    return [
        write_frame(folder / "history.csv", pd.DataFrame(history_rows(history))),
        write_json(folder / "evaluation.json", figures_of(found)),
        write_frame(folder / "confusion.csv", found.confusion_frame(), index=True),
    ]


def _pictures(model: "Model", history: "list[EpochRow]", data: "Dataset", folder: Path) -> list[Path]:
    """Pictures are an extra; without it a run says so and is whole all the same."""
    from neurograph.cli.running import draw
    from neurograph.errors import MissingExtraError

    try:
        return draw(model, history, data, folder)
    except MissingExtraError as error:
        say(f"no pictures: {error}")
        return []


def _exported(model: "Model", folder: Path) -> dict[str, Any]:
    """Some networks have no form in integers; their runs say so and are whole all the same."""
    from neurograph.errors import ConfigError
    from neurograph.export import export_integers

    try:
        sizes = export_integers(model, folder)
    except ConfigError as error:
        say(f"no export: {error}")
        return {}
    return {"bytes_of_trained_integers": sizes.integers, "bytes_of_export": sizes.total}


def _predictions(path: Path, model: "Model", data: "Dataset") -> Path:
    import pandas as pd

    probabilities = model.probabilities(data.test_x).cpu()
    best, predicted = probabilities.max(-1)
    names = list(data.classes)
    return write_frame(
        path,
        pd.DataFrame({
            "true": [names[one] for one in data.test_y.tolist()],
            "predicted": [names[one] for one in predicted.tolist()],
            "probability": best.tolist(),
        }),
    )  # fmt: skip


def _exit(accuracy: float, require: float | None) -> None:
    if require is not None and accuracy < require:
        say(f"the accuracy is {accuracy:.4f}, below the required {require:g}")
        raise typer.Exit(1)
