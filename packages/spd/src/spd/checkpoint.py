"""Files of a decomposition: whole or absent, and enough of them to go on as if nothing had happened.

A checkpoint is one safetensors file. Its tensors are those of the components, of the causal-importance functions, of
the optimizer, of sources that are kept between steps, and the state of the random generator; its header holds, as JSON,
the step, the settings, and a SHA-256 of all tensors' bytes. The frozen target is not in it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spd.background import Background
from spd.config.run import Config
from spd.data import mixed_seed
from spd.distributed import Distributed, whole
from spd.errors import CheckpointError
from spd.metrics.pgd_utils import PersistentSources
from spd.tensor_files import TensorFile
from spd.training import Trainer

__all__ = ["FORMAT_VERSION", "latest", "read_config_of", "restore", "save"]

FORMAT_VERSION = 1
_FILE = TensorFile("spd", FORMAT_VERSION, "a checkpoint", "Use an earlier one.")
_PREFIX, _SUFFIX, _SAMPLER = "step_", ".safetensors", "sampler/"
_MAY_CHANGE = {
    "perf", "steps", "train_log_freq", "eval_freq", "slow_eval_freq", "slow_eval_on_first_step", "n_eval_steps",
    "eval_batch_size", "eval_metrics", "eval_seed", "save_freq", "wandb_project", "wandb_run_name",
}  # fmt: skip
"""Settings that change nothing of what is learned, and how long."""


def save(
    trainer: Trainer, folder: Path, background: Background | None = None, distributed: Distributed | None = None
) -> Path:
    """Writes a checkpoint of the present step.

    Args:
        trainer: between two steps.
        folder: where to; it is made where it is missing.
        background: writes it while training goes on, from a copy that is made now; None = it is there on return.
        distributed: this process of several: all of them call it, and one writes.

    Returns:
        The file, `step_<n>.safetensors`.
    """
    distributed = distributed or Distributed()
    tensors, scalars = _collect(trainer)
    for rank, state in enumerate(distributed.gather(tensors["sampler"])):
        tensors[f"{_SAMPLER}{rank}"] = state
    del tensors["sampler"]
    header = {
        "step": trainer.step_count,
        "world_size": distributed.world_size,
        "config": trainer.config.model_dump(mode="json"),
        "scalars": scalars,
    }
    path = folder / f"{_PREFIX}{trainer.step_count:08d}{_SUFFIX}"
    if not distributed.is_main:
        return path
    if background is None:
        _FILE.write(path, tensors, header)
    else:
        copies = {name: value.clone() for name, value in tensors.items()}
        background.submit(lambda: _FILE.write(path, copies, header))
    return path


def latest(folder: Path) -> Path | None:
    """The checkpoint with the highest step.

    Args:
        folder: where checkpoints are.

    Returns:
        The file; None where there is none.
    """
    return max(folder.glob(f"{_PREFIX}*{_SUFFIX}"), default=None)


def read_config_of(path: Path) -> Config:
    """The settings that a checkpoint was made with.

    Args:
        path: the file.

    Returns:
        The settings.

    Raises:
        CheckpointError: a file that is truncated, foreign or too new.
    """
    return Config.model_validate(_FILE.header(path)["config"])


def restore(trainer: Trainer, path: Path, distributed: Distributed | None = None) -> None:
    """Puts a trainer where a checkpoint was made: parameters, moments, sources, random numbers and the step.

    Settings of how to run may differ, and so may the number of steps; everything else is the same. With another number
    of processes, each draws a new stream of masks.

    Args:
        trainer: with the same target and settings, not yet shared among processes.
        path: the file.
        distributed: this process of several.

    Raises:
        CheckpointError: a file that is truncated, damaged, foreign, too new, or of other settings. Nothing is changed
            then.
    """
    header = _FILE.header(path)
    saved, present = header["config"], trainer.config.model_dump(mode="json")
    for name in sorted(present.keys() - _MAY_CHANGE):
        if saved.get(name) != present[name]:
            raise CheckpointError(
                f"a run goes on with the settings that it began with; in {path} {name} is {saved.get(name)!r}, now it "
                f"is {present[name]!r}. Change it back, or start anew in another folder."
            )
    tensors = _FILE.tensors(path, header)
    expected, _ = _collect(trainer)
    model_names = {name for name in expected if name.startswith("model/")}
    wrong = sorted(model_names ^ {name for name in tensors if name.startswith("model/")})
    wrong += [name for name in model_names & tensors.keys() if tensors[name].shape != expected[name].shape]
    if wrong:
        raise CheckpointError(
            f"a checkpoint fits the model that it was made of; {path} differs at {wrong[0].removeprefix('model/')}. "
            "Use the same target."
        )
    _apply(trainer, tensors, header)
    _go_on_drawing(trainer, tensors, header, distributed or Distributed())


# --- what is kept -----------------------------------------------------------------------------------------------------


def _parameters(trainer: Trainer) -> dict[str, Tensor]:
    return {name: p for name, p in trainer.model.named_parameters() if not name.startswith("target_model.")}


def _collect(trainer: Trainer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    parameters = _parameters(trainer)
    tensors = {f"model/{name}": whole(p.detach()) for name, p in parameters.items()}
    for name, p in parameters.items():
        for key, value in trainer.optimizer.state.get(p, {}).items():
            tensors[f"optimizer/{name}/{key}"] = whole(value)
    sources: dict[str, int] = {}
    for index, kept in trainer.persistent.items():
        sources[str(index)] = kept.steps
        for site, source in kept.sources.items():
            tensors[f"sources/{index}/{site}/value"] = source
        for site, (m, v) in kept.moments.items():
            tensors[f"sources/{index}/{site}/m"], tensors[f"sources/{index}/{site}/v"] = m, v
    tensors["alive"] = torch.cat(list(trainer.alive.since().values()))
    tensors["sampler"] = trainer.sampler.state_dict()["generator"]
    return {name: value.cpu().contiguous() for name, value in tensors.items()}, {"sources": sources}


def _apply(trainer: Trainer, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    state = trainer.optimizer.state
    state.clear()
    with torch.no_grad():
        for name, p in _parameters(trainer).items():
            p.copy_(tensors[f"model/{name}"])
    for name, p in _parameters(trainer).items():
        prefix = f"optimizer/{name}/"
        own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if own:
            # The count of steps is kept on the CPU, as AdamW does, but where its fused form wants it elsewhere.
            at = dict.fromkeys(own, p.device)
            if trainer.config.perf.optimizer != "fused":
                at["step"] = torch.device("cpu")
            state[p] = {key: value.clone().to(at[key]) for key, value in own.items()}
    trainer.persistent.clear()
    for index, steps in header["scalars"]["sources"].items():
        trainer.persistent[int(index)] = _sources(trainer, int(index), steps, tensors)
    trainer.alive.load_state_dict({"since": tensors["alive"]})
    trainer.step_count = header["step"]


def _go_on_drawing(
    trainer: Trainer, tensors: Mapping[str, Tensor], header: Mapping[str, Any], distributed: Distributed
) -> None:
    if header["world_size"] == distributed.world_size:
        trainer.sampler.load_state_dict({"generator": tensors[f"{_SAMPLER}{distributed.rank}"]})
        return
    parts = ("resumed", trainer.config.seed, header["step"], distributed.rank, distributed.world_size)
    trainer.sampler.generator.manual_seed(mixed_seed(*parts))


def _sources(trainer: Trainer, index: int, steps: int, tensors: Mapping[str, Tensor]) -> PersistentSources:
    kept = trainer.persistent_sources(index)
    prefix, device = f"sources/{index}/", trainer.sampler.device
    sites = {name.removeprefix(prefix).rsplit("/", 1)[0] for name in tensors if name.startswith(prefix)}
    kept.load_state_dict({
        "sources": {site: tensors[f"{prefix}{site}/value"].to(device) for site in sorted(sites)},
        "moments": {
            site: (tensors[f"{prefix}{site}/m"].to(device), tensors[f"{prefix}{site}/v"].to(device))
            for site in sorted(sites)
            if f"{prefix}{site}/m" in tensors
        },
        "steps": steps,
    })  # fmt: skip
    return kept
