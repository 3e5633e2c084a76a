"""Settings of a whole decomposition."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from spd.config.base import Frozen
from spd.config.evals import EvalConfig
from spd.config.losses import LossConfig
from spd.config.models import CiConfig, MLPConfig, ModulePattern
from spd.config.perf import PerfConfig
from spd.config.schedules import LrSchedule
from spd.config.tasks import TaskConfig
from spd.errors import ConfigError
from spd.files import write_whole

__all__ = ["Config", "read_config", "write_config"]


class Config(Frozen):
    """How a target is decomposed. The name of a setting is that of the original where it had one.

    Args:
        seed: of initial parameters, data and masks.
        module_info: which modules, and into how many components each.
        identity_module_patterns: modules before which an identity is inserted, to be decomposed as `*.pre_identity`.
        tied_weights: pairs of sites whose components are each other's transposes: U of the second is Vᵀ of the first.
        ci: the causal-importance functions.
        sigmoid_type: see `spd.models.sigmoids`.
        sampling: how far components are ablated.
        n_mask_samples: draws of a stochastic loss.
        use_delta_component: whether Δ is one more component.
        output_loss_type: how outputs are compared.
        loss_metrics: the losses and their coefficients.
        lr_schedule: of components and causal-importance functions.
        tied_lr_factor: over the learning rate, for components that are tied. The original shared a tensor between two
            parameters, so that its optimizer moved it twice a step: 2 is what its published settings were tuned with.
        steps: steps of AdamW.
        batch_size: of a step, over all ranks and microbatches.
        gradient_accumulation_steps: microbatches of a step.
        grad_clip_norm_components: largest norm of the components' gradients; None = no limit.
        grad_clip_norm_ci_fns: the same for the causal-importance functions.
        faithfulness_warmup_steps: steps of training for faithfulness alone, before anything else.
        faithfulness_warmup_lr: their learning rate.
        faithfulness_warmup_weight_decay: their weight decay.
        train_log_freq: steps between two lines of the log.
        eval_freq: steps between two evaluations; None = none but at the end.
        slow_eval_freq: steps between two evaluations that also take what is slow and draw; a multiple of eval_freq;
            None = at the end only.
        slow_eval_on_first_step: also before training.
        n_eval_steps: batches of an evaluation.
        eval_batch_size: their size; None = batch_size.
        eval_metrics: what is measured beside the losses.
        eval_seed: of the data and draws of evaluations, which are the same each time.
        save_freq: steps between two checkpoints; None = one at the end.
        ci_alive_threshold: an importance above it counts as active.
        n_examples_until_dead: a component that was not active for so many examples is dead.
        wandb_project: where figures also go, offline unless WANDB_MODE says otherwise; None = nowhere but JSON lines.
        wandb_run_name: there; None = chosen by wandb.
        task_config: target and data; None where a program hands them over.
        perf: how to run.

    Raises:
        pydantic.ValidationError: unknown keys, values out of range, or values that contradict each other.
    """

    seed: NonNegativeInt = 0
    module_info: Annotated[tuple[ModulePattern, ...], Field(min_length=1)]
    identity_module_patterns: tuple[str, ...] = ()
    tied_weights: tuple[tuple[str, str], ...] = ()
    ci: CiConfig = MLPConfig()
    sigmoid_type: Literal[
        "leaky_hard", "leaky_hard_published", "hard", "normal", "upper_leaky_hard", "lower_leaky_hard", "swish_hard"
    ] = "leaky_hard"
    sampling: Literal["continuous", "binomial"] = "continuous"
    n_mask_samples: PositiveInt = 1
    use_delta_component: bool = True
    output_loss_type: Literal["mse", "kl"]
    loss_metrics: Annotated[tuple[LossConfig, ...], Field(min_length=1)]
    lr_schedule: LrSchedule
    tied_lr_factor: PositiveFloat = 2.0
    steps: PositiveInt
    batch_size: PositiveInt
    gradient_accumulation_steps: PositiveInt = 1
    grad_clip_norm_components: PositiveFloat | None = None
    grad_clip_norm_ci_fns: PositiveFloat | None = None
    faithfulness_warmup_steps: NonNegativeInt = 0
    faithfulness_warmup_lr: PositiveFloat = 1e-3
    faithfulness_warmup_weight_decay: NonNegativeFloat = 0.0
    train_log_freq: PositiveInt = 100
    eval_freq: PositiveInt | None = None
    slow_eval_freq: PositiveInt | None = None
    slow_eval_on_first_step: bool = True
    n_eval_steps: PositiveInt = 10
    eval_batch_size: PositiveInt | None = None
    eval_metrics: tuple[EvalConfig, ...] = ()
    eval_seed: NonNegativeInt = 1
    save_freq: PositiveInt | None = None
    ci_alive_threshold: NonNegativeFloat = 0.0
    n_examples_until_dead: PositiveInt = 1_000_000
    wandb_project: str | None = None
    wandb_run_name: str | None = None
    task_config: TaskConfig | None = None
    perf: PerfConfig = PerfConfig()

    @model_validator(mode="after")
    def _refuse_what_cannot_run(self) -> "Config":
        if self.batch_size % self.gradient_accumulation_steps:
            raise ValueError(
                f"microbatches are of one size: gradient_accumulation_steps divides batch_size; got "
                f"{self.gradient_accumulation_steps} and {self.batch_size}. Choose a divisor."
            )
        if not any(loss.coeff for loss in self.loss_metrics):
            raise ValueError("training needs a loss with a coefficient above 0; all are 0. Raise one.")
        if self.slow_eval_freq is not None and (self.eval_freq is None or self.slow_eval_freq % self.eval_freq):
            raise ValueError(
                f"a slow evaluation is also a quick one: slow_eval_freq is a multiple of eval_freq; got "
                f"{self.slow_eval_freq} and {self.eval_freq}. Choose a multiple."
            )
        if self.perf.amp != "off" and self.output_loss_type == "mse":
            raise ValueError(
                f"squared errors of a good decomposition are far below what {self.perf.amp} can tell apart: gradients "
                "would be noise; perf.amp is for output_loss_type 'kl'. Switch it off."
            )
        return self


def read_config(path: Path) -> Config:
    """Settings from a YAML file.

    Args:
        path: the file.

    Returns:
        The settings.

    Raises:
        ConfigError: no such file, no YAML, or settings that are refused; the message names each and what is wrong.
    """
    try:
        found: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(
            f"settings are a YAML file; {path} could not be read: {error}. Correct the path or it."
        ) from error
    try:
        return Config.model_validate(found)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'all'}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"settings are those of spd.config.run.Config; in {path}: {wrong}. Correct them.") from error


def write_config(config: Config, path: Path) -> None:
    """Settings as a YAML file, whole or not at all.

    Args:
        config: the settings.
        path: the file.
    """
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
