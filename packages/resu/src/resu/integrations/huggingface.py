"""Cycles in Hugging Face's `Trainer`: one callback.

::

    trainer = Trainer(model, args, train_dataset=data, callbacks=[RESUCallback(CycleConfig(target_sparsity=0.9))])
    trainer.train()

The `Trainer` makes its optimizer as ever, which is attached to the masks; or hand it a `MaskedAdamW`. Each of its
checkpoints gets a file `resu.safetensors` beside the weights, and `train(resume_from_checkpoint=True)` goes on from it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from resu.checkpoint import Checkpoint, load, save
from resu.config import CycleConfig
from resu.errors import CheckpointError, ConfigError, MissingExtraError
from resu.integrations.driver import CycleDriver
from resu.training.stats import CycleStats

if TYPE_CHECKING:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
else:
    try:
        from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
    except ImportError:
        TrainerCallback = object
        TrainerControl = TrainerState = TrainingArguments = Any

__all__ = ["RESUCallback"]

_FILE = "resu.safetensors"


class RESUCallback(TrainerCallback):
    """Drives the phases at each optimizer step of a `transformers.Trainer`.

    What became of a cycle goes into the trainer's log history, under names that begin with `resu_`.

    Args:
        config: the settings; None takes the defaults. The score "gradient" is refused: the trainer has thrown gradients
            away before a callback hears of a step.
        options: as for `resu.integrations.driver.CycleDriver`: fit, pruner, stabilizer, calibration, include, exclude.

    Raises:
        MissingExtraError: transformers is not installed.
        ConfigError: settings that cannot be run here.
    """

    def __init__(self, config: CycleConfig | None = None, **options: Any) -> None:
        if TrainerCallback is object:
            raise MissingExtraError(
                "the callback for Hugging Face's Trainer needs transformers, which is not installed. Run "
                "pip install './packages/resu[hf]'."
            )
        if config is not None and config.score == "gradient":
            raise ConfigError(
                "the score 'gradient' needs gradients after a step; Trainer has thrown them away by then. Use the "
                "score 'momentum', or train with resu.training.cycle.RESUTrainer."
            )
        super().__init__()
        self.driver = CycleDriver(config, **options)

    @property
    def history(self) -> list[CycleStats]:
        """The cycles that are over."""
        return self.driver.history

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Puts masks on the model, or finds its place again after a resumption."""
        if state.global_step:
            self._load(_folder(args, state) / _FILE)
        self.driver.begin(kwargs["model"], kwargs["optimizer"], state.max_steps)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Moves the clock."""
        stats = self.driver.advance()
        if stats is not None:
            facts = {
                "cycle": stats.cycle,
                "sparsity": stats.sparsity,
                "resurrected": stats.resurrected,
                "resurrection_rate": stats.resurrection_rate,
                "churn": stats.churn,
            }
            named = {f"resu_{name}": value for name, value in facts.items()}
            state.log_history.append({**named, "step": state.global_step})

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Writes masks and position beside the trainer's own checkpoint."""
        if state.is_world_process_zero:
            kept = self.driver.state_dict()
            about = {"step": state.global_step}
            save(_folder(args, state) / _FILE, Checkpoint({}, kept["sparsifier"], cycle=kept["cycle"], about=about))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ends what is on."""
        self.driver.end()

    def _load(self, path: Path) -> None:
        checkpoint = load(path)
        if checkpoint.cycle is None:
            raise CheckpointError(
                f"a training goes on from a position in the cycle; {path} has none. Take the file that this callback "
                "wrote."
            )
        self.driver.load_state_dict({"sparsifier": checkpoint.sparsifier, "cycle": checkpoint.cycle})


def _folder(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
