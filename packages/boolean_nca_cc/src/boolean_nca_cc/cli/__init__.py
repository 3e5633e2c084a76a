"""The command `boolean-nca`: train circuits, damage them, evaluate, draw and plot.

Results go to standard output, progress to standard error. Exit codes: 0 done, 1 a result below what was required, 2 bad
usage or input. Frameworks are imported inside the commands, so that help is quick.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.table import Table

from boolean_nca_cc import __version__
from boolean_nca_cc.cli import analysing, automata, exporting, meta
from boolean_nca_cc.cli.output import (
    AsJson,
    LearningRate,
    Require,
    Resume,
    Seed,
    check_required,
    console,
    pictures_if_possible,
    print_files,
    print_json,
    progress,
)
from boolean_nca_cc.cli.studying import study_pictures, study_tables
from boolean_nca_cc.config import FitConfig, OptimizerConfig
from boolean_nca_cc.errors import BooleanNCAError, CheckpointError, ConfigError
from boolean_nca_cc.experiments.settings import DamageMode, KnockoutSettings, TrainSettings

if TYPE_CHECKING:
    from boolean_nca_cc.experiments.evaluation import Evaluation

__all__ = ["app", "main"]

app = typer.Typer(
    name="boolean-nca",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(exporting.app)
app.add_typer(analysing.app)
app.add_typer(automata.app)
app.add_typer(meta.app)

RULES = {
    "copy": "the input",
    "reverse": "the input bits in reverse order",
    "gray": "the Gray code, i xor i/2",
    "and": "low half and high half, bit by bit",
    "xor": "low half xor high half, bit by bit",
    "add": "low half + high half",
    "multiply": "low half × high half",
    "parity": "1 where the number of ones is odd",
    "popcount": "the number of ones",
    "text": "column i of a text drawn in pixels",
    "noise": "random bits",
}

Task = Annotated[str, typer.Option(help="What to learn; see `boolean-nca tasks`.")]
Bits = Annotated[int, typer.Option(help="Input bits.")]
Outputs = Annotated[int | None, typer.Option(help="Output bits.", show_default="the task's own")]
Text = Annotated[str, typer.Option(help="What the task `text` draws.")]
Arity = Annotated[int, typer.Option(help="Inputs of a gate.")]
Hidden = Annotated[int, typer.Option(help="Hidden layers.")]
Width = Annotated[int, typer.Option(help="Factor of the wide layers.")]
Optimizer = Annotated[str, typer.Option(help="sgd, adam, adamw, rmsprop, lion or adafactor.")]
Loss = Annotated[str, typer.Option(help="l4 or bce.")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        arguments: the command line without the program's name; None = the process's own.

    Raises:
        SystemExit: always, with the exit code.
    """
    try:
        app(args=None if arguments is None else list(arguments), prog_name="boolean-nca")
    except ValidationError as error:
        _fail("; ".join(_setting_error(one) for one in error.errors()))
    except (BooleanNCAError, OSError) as error:
        _fail(str(error))


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Boolean circuits that learn, survive knocked-out gates and repair themselves.

    Examples:
      boolean-nca train --task add --out runs/add
      boolean-nca knockout --checkpoint runs/add --patterns 256 --dead 20
      boolean-nca show runs/add circuit.svg
    """
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def tasks(bits: Bits = 8, as_json: AsJson = False) -> None:
    """Lists the tasks and their output bits.

    Examples:
      boolean-nca tasks
      boolean-nca tasks --bits 4 --json
    """
    from boolean_nca_cc.circuits.tasks import get_task
    from boolean_nca_cc.errors import TaskError

    rows: list[dict[str, Any]] = []
    for name, rule in RULES.items():
        try:
            outputs: int | None = get_task(name, bits).y.shape[1]
        except TaskError:  # this task does not exist at this width: an odd one has no halves
            outputs = None
        rows.append({"task": name, "outputs": outputs, "rule": rule})
    if as_json:
        return print_json({"kind": "tasks", "bits": bits, "tasks": rows})
    table = Table("task", "outputs", "output", title=f"Tasks with {bits} input bits i", title_justify="left")
    for row in rows:
        table.add_row(row["task"], "–" if row["outputs"] is None else str(row["outputs"]), row["rule"])
    return console().print(table)


@app.command()
def train(
    task: Task = "add",
    bits: Bits = 8,
    outputs: Outputs = None,
    text: Text = "Hello",
    arity: Arity = 4,
    hidden: Hidden = 3,
    width: Width = 2,
    steps: Annotated[int, typer.Option(help="Training steps.")] = 200,
    optimizer: Optimizer = "adamw",
    learning_rate: LearningRate = 1.0,
    loss: Loss = "l4",
    seed: Seed = 0,
    test_fraction: Annotated[float, typer.Option(help="Share of cases held out from training.")] = 0.0,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints, a multiple of 10.")] = 100,
    out: Annotated[Path | None, typer.Option(help="Folder of the run.", show_default="runs/TASK-BITS-SEED")] = None,
    resume: Resume = False,
    require: Require = None,
    as_json: AsJson = False,
) -> None:
    """Trains a circuit on every case of a task.

    A killed run goes on from its last checkpoint with --resume, and may then be asked for more steps.

    Examples:
      boolean-nca train --task add
      boolean-nca train --task multiply --hidden 4 --width 4 --out runs/multiply --require 1.0
      boolean-nca train --task add --steps 400 --resume
    """
    settings = TrainSettings(
        task=task,
        bits=bits,
        outputs=outputs,
        text=text,
        arity=arity,
        hidden=hidden,
        width=width,
        seed=seed,
        test_fraction=test_fraction,
        checkpoint_every=checkpoint_every,
        fit=_fit_config(steps, optimizer, learning_rate, loss),
    )
    from boolean_nca_cc.experiments.training_run import run_training

    folder = out or Path("runs") / f"{task}-{bits}-{seed}"
    with progress(f"training {task}") as report:
        outcome = run_training(settings, folder, resume=resume, report=report)
    files = outcome.files + _pictures(lambda plots: plots.learning_curves(outcome.history, folder / "curves", task))
    if as_json:
        print_json(
            {
                "kind": "train",
                "settings": settings.model_dump(mode="json"),
                "evaluation": outcome.evaluation.as_dict(),
                "files": [str(file) for file in files],
            }
        )
    else:
        _print_evaluation(f"{task}, {bits} → {outcome.spec.n_out} bits after {steps} steps", outcome.evaluation)
        print_files(files)
    check_required(outcome.evaluation.hard_accuracy, require)


@app.command()
def knockout(
    checkpoint: Annotated[Path | None, typer.Option(help="Run to damage.", show_default="train one on --task")] = None,
    rule: Annotated[
        Path | None, typer.Option(help="Damage the circuit of this rule (of meta-train), and let it repair, too.")
    ] = None,
    patterns: Annotated[int, typer.Option(help="Patterns of dead gates.")] = 256,
    dead: Annotated[
        str, typer.Option(help="Dead gates, one number or several (2,5,10); expected ones, or the strip's width.")
    ] = "20",
    mode: Annotated[DamageMode, typer.Option(help="How they are chosen.")] = DamageMode.SHOTGUN,
    steps: Annotated[int, typer.Option(help="Retraining steps for each pattern.")] = 100,
    optimizer: Optimizer = "adamw",
    learning_rate: LearningRate = 1.0,
    loss: Loss = "l4",
    chunk: Annotated[int, typer.Option(help="Patterns between two checkpoints.")] = 32,
    task: Task = "add",
    bits: Bits = 8,
    arity: Arity = 4,
    hidden: Hidden = 3,
    width: Width = 2,
    train_steps: Annotated[int, typer.Option(help="Training steps of the circuit, without --checkpoint.")] = 200,
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the study.", show_default="runs/knockout-MODE-DEAD-TASK-BITS-SEED")
    ] = None,
    resume: Resume = False,
    require: Annotated[
        float | None, typer.Option(help="Exit with 1 if the mean after retraining is below this.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Knocks gates out of a trained circuit, many patterns at once, and retrains it around each.

    Reports how hard accuracy is distributed over the patterns right after the knockout and after retraining. Several
    numbers of dead gates share the patterns, and a plot shows accuracy against them. With `--mode greedy` the patterns
    are the first 1, 2, … gates of the greedy worst order, up to --dead.

    Examples:
      boolean-nca knockout --patterns 256 --dead 20
      boolean-nca knockout --task reverse --patterns 1000 --steps 200 --dead 2,5,10,20,40
      boolean-nca knockout --checkpoint runs/add-8-0 --mode strip --dead 7 --steps 50
      boolean-nca knockout --mode greedy --dead 20 --json
      boolean-nca knockout --rule runs/rule --patterns 1000 --dead 2,4,8,16,32
    """
    if rule is not None and checkpoint is not None:
        raise ConfigError(
            f"a study damages one circuit; it is given a run, {checkpoint}, and that of a rule, {rule}. Leave out one."
        )
    base = TrainSettings(
        task=task, bits=bits, arity=arity, hidden=hidden, width=width, seed=seed, fit=FitConfig(steps=train_steps)
    )
    asked = {
        "patterns": patterns, "dead": [part.strip() for part in dead.split(",")], "mode": mode, "seed": seed,
        "retrain": _fit_config(steps, optimizer, learning_rate, loss), "chunk": chunk,
    }  # fmt: skip
    settings = KnockoutSettings.model_validate({"base": base, **asked})
    from boolean_nca_cc.experiments.damage import check_damage
    from boolean_nca_cc.experiments.knockout_study import run_knockout_study
    from boolean_nca_cc.experiments.training_run import CHECKPOINT, load_run, new_circuit, run_training, task_of

    numbers = "_".join(map(str, settings.dead))
    given = checkpoint or rule
    name = "-".join(["knockout", mode.value, numbers, *([] if given else [task, str(bits)]), str(seed)])
    folder = out or (Path("runs") / name if given is None else _folder_of(given) / name)
    repair = None
    if rule is not None:
        from boolean_nca_cc.experiments.repair_run import rule_under_study

        base, spec, circuit, repair = rule_under_study(rule)
    elif checkpoint is None:
        check_damage(settings, new_circuit(base, task_of(base).y.shape[1])[0])  # before minutes of training
        # A study that is resumed finds its circuit finished, or finishes it.
        again = resume or (folder / "circuit" / CHECKPOINT).exists()
        with progress(f"training {task}") as report:
            checkpoint = run_training(base, folder / "circuit", resume=again, report=report).files[0]
    if checkpoint is not None:
        base, saved = load_run(checkpoint)
        spec, circuit = saved.spec, saved.circuit
    settings = settings.model_copy(update={"base": base})
    with progress("knocking out") as report:
        outcome = run_knockout_study(settings, circuit, spec, folder, resume=resume, report=report, rule=repair)
    files = outcome.files + _pictures(lambda plots: study_pictures(plots, outcome, folder))
    summary = outcome.summary()
    if as_json:
        document = {"kind": "knockout", "settings": settings.model_dump(mode="json"), "summary": summary}
        print_json(document | {"files": [str(file) for file in files]})
    else:
        for table in study_tables(outcome):
            console().print(table)
        print_files(files)
    check_required(summary["retrained_hard_accuracy"]["mean"], require)


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="Folder or checkpoint of a training run.")],
    require: Require = None,
    as_json: AsJson = False,
) -> None:
    """Evaluates a trained circuit on every case of its task.

    Examples:
      boolean-nca evaluate runs/add-8-0
      boolean-nca evaluate runs/add-8-0 --require 1.0 --json
    """
    from boolean_nca_cc.experiments.evaluation import evaluate as evaluate_circuit
    from boolean_nca_cc.experiments.training_run import load_run, task_of

    settings, saved = load_run(checkpoint)
    evaluation = evaluate_circuit(saved.circuit, saved.spec, task_of(settings))
    if as_json:
        print_json({"kind": "evaluate", "checkpoint": str(checkpoint), "step": saved.step, **evaluation.as_dict()})
    else:
        _print_evaluation(f"{checkpoint}: {settings.task} at step {saved.step}", evaluation)
    check_required(evaluation.hard_accuracy, require)


@app.command()
def show(
    paths: Annotated[list[Path], typer.Argument(help="CHECKPOINT OUT.svg; with --task just OUT.svg.")],
    task: Annotated[str | None, typer.Option(help="Draw an untrained circuit for this task.")] = None,
    bits: Bits = 8,
    dead: Annotated[int, typer.Option(help="Knock this many gates out (shotgun).")] = 0,
    seed: Seed = 0,
) -> None:
    """Draws a circuit as SVG: wires, truth tables, dead gates, live paths.

    Examples:
      boolean-nca show runs/add-8-0 circuit.svg
      boolean-nca show runs/add-8-0 damaged.svg --dead 20 --seed 3
      boolean-nca show --task copy --bits 4 fresh.svg
    """
    if len(paths) != (2 if task is None else 1):
        raise ConfigError(
            "show takes a checkpoint and the picture to write, or --task and the picture; "
            f"it got {len(paths)} path(s){'' if task is None else ' and --task'}. See `boolean-nca show --help`."
        )
    import jax

    from boolean_nca_cc.checkpoint import write_atomically
    from boolean_nca_cc.draw import circuit_svg
    from boolean_nca_cc.experiments.training_run import load_run, new_circuit, task_of
    from boolean_nca_cc.knockout import shotgun

    if task is None:
        settings, saved = load_run(paths[0])
        spec, circuit, state = saved.spec, saved.circuit, f"after {saved.step} steps"
    else:
        settings, state = TrainSettings(task=task, bits=bits, seed=seed), "untrained"
        spec, circuit = new_circuit(settings, task_of(settings).y.shape[1])
    alive = shotgun(jax.random.key(seed), spec, dead)
    svg = circuit_svg(circuit, spec, alive=alive, title=f"{settings.task}, {spec.n_in} → {spec.n_out} bits, {state}")
    write_atomically(paths[-1], svg.encode())
    print_files([paths[-1]])


@app.command()
def plot(folder: Annotated[Path, typer.Argument(help="Folder of a training run or of a knockout study.")]) -> None:
    """Draws the pictures of a run again: learning curves, or histogram and curves of a study.

    Examples:
      boolean-nca plot runs/add-8-0
    """
    from boolean_nca_cc import plots
    from boolean_nca_cc.experiments.knockout_study import STUDY, load_study
    from boolean_nca_cc.experiments.training_run import CHECKPOINT, load_run

    if (folder / STUDY).exists():
        return print_files(study_pictures(plots, load_study(folder), folder))
    if not (folder / CHECKPOINT).exists():
        raise CheckpointError(f"a run's folder holds {CHECKPOINT} or {STUDY}; {folder} has neither. Check the path.")
    settings, saved = load_run(folder)
    return print_files(plots.learning_curves(saved.record, folder / "curves", settings.task))


def _fit_config(steps: int, optimizer: str, learning_rate: float, loss: str) -> FitConfig:
    return FitConfig.model_validate(
        {
            "steps": steps,
            "optimizer": OptimizerConfig.model_validate({"name": optimizer, "learning_rate": learning_rate}),
            "loss": loss,
        }
    )


def _folder_of(checkpoint: Path) -> Path:
    return checkpoint if checkpoint.is_dir() else checkpoint.parent


def _pictures(draw: Callable[[Any], list[Path]]) -> list[Path]:
    from boolean_nca_cc import plots

    return pictures_if_possible(lambda: draw(plots))


def _print_evaluation(title: str, evaluation: "Evaluation") -> None:
    table = Table("measure", "value", title=title, title_justify="left")
    table.add_row("hard accuracy", f"{evaluation.hard_accuracy:.4f}")
    table.add_row("cases all right", f"{evaluation.exact_cases:.4f} of {evaluation.cases}")
    table.add_row("soft accuracy", f"{evaluation.accuracy:.4f}")
    table.add_row("gates that matter", f"{evaluation.live_gates} of {evaluation.gates}")
    console().print(table)


def _setting_error(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"]) or "settings"
    return f"{where}: {error['msg']}; it is {error['input']!r}" if error["loc"] else error["msg"]


def _fail(message: str) -> None:
    typer.echo(f"boolean-nca: {message}", err=True)
    raise SystemExit(2)
