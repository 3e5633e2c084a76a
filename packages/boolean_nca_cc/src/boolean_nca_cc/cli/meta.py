"""The commands `boolean-nca meta-train` and `boolean-nca repair`: rules that configure circuits and mend them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from boolean_nca_cc.cli.output import (
    AsJson,
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
from boolean_nca_cc.errors import ConfigError
from boolean_nca_cc.experiments.settings import TrainSettings
from boolean_nca_cc.meta.settings import MetaConfig

if TYPE_CHECKING:
    from boolean_nca_cc.experiments.meta_run import MetaOutcome
    from boolean_nca_cc.experiments.repair_run import RepairOutcome

__all__ = ["app"]

app = typer.Typer()

_DEFAULT = MetaConfig()


@app.command("meta-train")
def meta_train(
    task: Annotated[str, typer.Option(help="What circuits shall compute; see `boolean-nca tasks`.")] = "reverse",
    bits: Annotated[int, typer.Option(help="Input bits.")] = 8,
    arity: Annotated[int, typer.Option(help="Inputs of a gate.")] = 4,
    hidden: Annotated[int, typer.Option(help="Hidden layers.")] = 3,
    width: Annotated[int, typer.Option(help="Factor of the wide layers.")] = 2,
    rule: Annotated[str, typer.Option(help="attention or gnn.")] = _DEFAULT.rule.kind,
    channels: Annotated[int, typer.Option(help="Numbers that a gate remembers.")] = _DEFAULT.rule.hidden,
    rule_width: Annotated[int, typer.Option(help="Width of the rule's layers.")] = _DEFAULT.rule.width,
    heads: Annotated[int, typer.Option(help="Attention heads.")] = _DEFAULT.rule.heads,
    depth: Annotated[int, typer.Option(help="Hops along the wires in a step.")] = _DEFAULT.rule.depth,
    aggregate: Annotated[str, typer.Option(help="gnn: sum or attention.")] = _DEFAULT.rule.aggregate,
    epochs: Annotated[int, typer.Option(help="Updates of the rule, at most.")] = _DEFAULT.epochs,
    batch: Annotated[int, typer.Option(help="Circuits of an update.")] = _DEFAULT.batch,
    steps: Annotated[int, typer.Option(help="Steps of the rule in an update.")] = _DEFAULT.steps,
    loss: Annotated[str, typer.Option(help="l4 or bce.")] = _DEFAULT.loss,
    loss_step: Annotated[str, typer.Option(help="After which step: last, random or beta.")] = _DEFAULT.loss_step,
    learning_rate: Annotated[float, typer.Option(help="Of the rule's weights.")] = _DEFAULT.learning_rate,
    pool: Annotated[int, typer.Option(help="Circuits of the pool.")] = _DEFAULT.pool.size,
    wiring: Annotated[str, typer.Option(help="fixed or random.")] = _DEFAULT.pool.wiring,
    reset: Annotated[float, typer.Option(help="Share of the pool replaced an epoch.")] = _DEFAULT.pool.reset,
    reset_by: Annotated[str, typer.Option(help="uniform, steps, loss or mixed.")] = _DEFAULT.pool.reset_by,
    genetic: Annotated[int, typer.Option(help="Swapped pairs of wires of a fresh circuit.")] = _DEFAULT.pool.genetic,
    dead: Annotated[int, typer.Option(help="Gates that damage takes; 0 trains without damage.")] = 8,
    damage: Annotated[str, typer.Option(help="permanent, reversible or seu.")] = _DEFAULT.damage.kind,
    damaged: Annotated[float, typer.Option(help="Share of the pool damaged an epoch.")] = _DEFAULT.damage.fraction,
    vocabulary: Annotated[
        int, typer.Option(help="Patterns of damage; 0 draws each anew.")
    ] = _DEFAULT.damage.vocabulary,
    evaluate_every: Annotated[int, typer.Option(help="Epochs between checkpoints.")] = _DEFAULT.evaluate_every,
    target: Annotated[float, typer.Option(help="Hard accuracy that ends the training.")] = _DEFAULT.target,
    patience: Annotated[int, typer.Option(help="Evaluations in a row that reach it.")] = _DEFAULT.patience,
    devices: Annotated[int | None, typer.Option(help="Devices that share the pool.", show_default="one")] = None,
    processes: Annotated[int, typer.Option(help="Processes that train together.")] = 1,
    process: Annotated[int, typer.Option(help="Which of them this is, from 0.")] = 0,
    coordinator: Annotated[str | None, typer.Option(help="HOST:PORT of process 0.", show_default="none")] = None,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Folder of the run.", show_default="runs/TASK-RULE-SEED")] = None,
    resume: Resume = False,
    require: Require = None,
    as_json: AsJson = False,
) -> None:
    """Trains a local rule that configures circuits for a task and mends them when gates die.

    Needs the extra `models`. The rule sees a circuit as a graph and changes every gate's table from what its neighbours
    tell it. Training ends when circuits are right after configuration and after repair, or with the epochs.

    Examples:
      boolean-nca meta-train --task reverse --bits 4 --arity 2 --dead 2
      boolean-nca meta-train --rule gnn --dead 8 --out runs/rule
      boolean-nca meta-train --out runs/rule --rule gnn --dead 8 --resume
      boolean-nca meta-train --processes 2 --coordinator 10.0.0.1:1234 --process 0
    """
    meta = MetaConfig.model_validate(
        {
            "rule": {
                "kind": rule,
                "hidden": channels,
                "width": rule_width,
                "heads": heads,
                "depth": depth,
                "aggregate": aggregate,
            },
            "pool": {"size": pool, "wiring": wiring, "reset": reset, "reset_by": reset_by, "genetic": genetic},
            "damage": {"dead": dead, "kind": damage, "fraction": damaged, "vocabulary": vocabulary},
            "epochs": epochs,
            "batch": batch,
            "steps": steps,
            "loss": loss,
            "loss_step": loss_step,
            "learning_rate": learning_rate,
            "evaluate_every": evaluate_every,
            "target": target,
            "patience": patience,
            "seed": seed,
        }
    )
    base = TrainSettings(task=task, bits=bits, arity=arity, hidden=hidden, width=width, seed=seed)
    if (processes > 1) != (coordinator is not None):
        raise ConfigError(
            f"processes that train together need a place to meet; there are {processes} with the coordinator "
            f"{coordinator}. Give both --processes and --coordinator, or neither."
        )
    from boolean_nca_cc.meta.hosts import is_main_process, join_hosts

    if coordinator is not None:
        join_hosts(coordinator, processes, process)
    from boolean_nca_cc.experiments.meta_run import MetaSettings, run_meta_training
    from boolean_nca_cc.meta.spreading import make_pool_mesh
    from boolean_nca_cc.plots_meta import rule_curves

    mesh = None if devices is None and processes == 1 else make_pool_mesh(devices)
    settings = MetaSettings(base=base, meta=meta)
    folder = out or Path("runs") / f"{task}-{rule}-{seed}"
    with progress("training a rule") as report:
        outcome = run_meta_training(settings, folder, resume=resume, report=report, mesh=mesh)
    if not is_main_process():
        return
    files = outcome.files + pictures_if_possible(
        lambda: rule_curves(outcome.trained.record, folder / "training", f"A rule for {task}, {bits} bits")
    )
    summary = outcome.summary()
    if as_json:
        document = {"kind": "meta-train", "settings": settings.model_dump(mode="json"), **summary}
        print_json(document | {"files": [str(file) for file in files]})
    else:
        _print_training(outcome)
        print_files(files)
    check_required(summary["hard_accuracy"]["configured"], require)


@app.command()
def repair(
    run: Annotated[Path, typer.Argument(help="Folder of `boolean-nca meta-train`.")],
    dead: Annotated[int, typer.Option(help="Gates that die, of the hidden ones.")] = 8,
    patterns: Annotated[int, typer.Option(help="Patterns of damage.")] = 64,
    steps: Annotated[int, typer.Option(help="Steps of the rule after the damage.")] = 20,
    seed: Annotated[int, typer.Option(help="Seeds the patterns.")] = 1000,
    out: Annotated[Path | None, typer.Option(help="Folder for results.", show_default="RUN/repair")] = None,
    require: Require = None,
    as_json: AsJson = False,
) -> None:
    """Kills gates of a circuit that a rule has configured, and shows how the rule brings it back.

    Beside it: the same damage with nothing done, and retrained by gradient descent. Writes a plot of all patterns and
    an animation of the one that hurts most.

    Examples:
      boolean-nca repair runs/rule --dead 8
      boolean-nca repair runs/rule --dead 16 --patterns 256 --require 0.95
    """
    from boolean_nca_cc.experiments.meta_run import load_rule
    from boolean_nca_cc.experiments.repair_run import draw_repair, run_repair

    trained = load_rule(run)
    folder = out or (run if run.is_dir() else run.parent) / "repair"
    outcome = run_repair(trained, folder, dead=dead, patterns=patterns, steps=steps, seed=seed)
    files = outcome.files + pictures_if_possible(lambda: draw_repair(trained, outcome, folder))
    summary = outcome.summary()
    if as_json:
        print_json({"kind": "repair", **summary, "files": [str(file) for file in files]})
    else:
        _print_repair(outcome, summary)
        print_files(files)
    check_required(summary["rule"]["mean"], require)


def _print_training(outcome: "MetaOutcome") -> None:
    summary = outcome.summary()
    accuracy: dict[str, Any] = summary["hard_accuracy"]
    ended = "target reached" if summary["target_reached"] else "all epochs done"
    table = Table(
        "circuits",
        "right after damage",
        "after the rule",
        title=f"{summary['parameters']:,} parameters, {summary['epochs']:,} epochs, {ended}: hard accuracy",
        title_justify="left",
    )
    table.add_row("fresh, wired as in training", "–", f"{accuracy['configured']:.4f}")
    table.add_row("fresh, wired otherwise", "–", f"{accuracy['fresh_wiring']:.4f}")
    names = {"unseen_damage": "dead gates, unseen", "seen_damage": "dead gates, seen", "flipped": "flipped entries"}
    for name, words in names.items():
        if name in accuracy:
            table.add_row(words, f"{accuracy[name]['damaged']:.4f}", f"{accuracy[name]['healed']:.4f}")
    console().print(table)


def _print_repair(outcome: "RepairOutcome", summary: dict[str, Any]) -> None:
    table = Table(
        "done",
        "steps",
        "mean",
        "worst",
        "exact again",
        title=f"{outcome.dead} dead gates, {summary['patterns']} patterns; hard accuracy before the damage "
        f"{outcome.baseline:.4f}",
        title_justify="left",
    )
    rows = {
        "nothing": summary["nothing"],
        "the rule": summary["rule"],
        "gradient descent": summary["gradient_same_steps"],
        "gradient descent ": summary["gradient"],
    }
    for words, row in rows.items():
        steps = str(row.get("steps", "–"))
        table.add_row(words.strip(), steps, f"{row['mean']:.4f}", f"{row['worst']:.4f}", f"{row['exact']:.0%}")
    console().print(table)
