"""Files of a decomposition: whole or absent, and enough of them to go on as if nothing had happened.

A checkpoint is one safetensors file. Its tensors are those of the components, of the causal-importance functions, of
the optimizer, of sources that are kept between steps, and the state of the random generator; its header holds, as JSON,
the step, the settings, and a SHA-256 of all tensors' bytes. The frozen target is not in it. It is written beside its
final name, flushed to the disk and renamed, so that a process killed at any moment leaves only whole files.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from spd.config.run import Config
from spd.errors import CheckpointError
from spd.metrics.pgd_utils import PersistentSources
from spd.training import Trainer

__all__ = ["FORMAT_VERSION", "latest", "read_config_of", "restore", "save"]

FORMAT_VERSION = 1
_PREFIX, _SUFFIX = "step_", ".safetensors"
_MAY_CHANGE = {
    "perf", "steps", "train_log_freq", "eval_freq", "slow_eval_freq", "slow_eval_on_first_step", "n_eval_steps",
    "eval_batch_size", "eval_metrics", "eval_seed", "save_freq", "wandb_project", "wandb_run_name",
}  # fmt: skip
"""Settings that change nothing of what is learned, and how long."""


def save(trainer: Trainer, folder: Path) -> Path:
    """Writes a checkpoint of the present step.

    Args:
        trainer: between two steps.
        folder: where to; it is made where it is missing.

    Returns:
        The file, `step_<n>.safetensors`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors, scalars = _collect(trainer)
    header = {
        "format": FORMAT_VERSION,
        "step": trainer.step_count,
        "config": trainer.config.model_dump(mode="json"),
        "scalars": scalars,
        "sha256": _digest(tensors),
    }
    path = folder / f"{_PREFIX}{trainer.step_count:08d}{_SUFFIX}"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file(tensors, temporary, metadata={"spd": json.dumps(header)})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
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
    return Config.model_validate(_header(path)["config"])


def restore(trainer: Trainer, path: Path) -> None:
    """Puts a trainer where a checkpoint was made: parameters, moments, sources, random numbers and the step.

    Settings of how to run may differ, and so may the number of steps; everything else is the same.

    Args:
        trainer: with the same target and settings.
        path: the file.

    Raises:
        CheckpointError: a file that is truncated, damaged, foreign, too new, or of other settings. Nothing is changed
            then.
    """
    header = _header(path)
    saved, present = header["config"], trainer.config.model_dump(mode="json")
    for name in sorted(present.keys() - _MAY_CHANGE):
        if saved.get(name) != present[name]:
            raise CheckpointError(
                f"a run goes on with the settings that it began with; in {path} {name} is {saved.get(name)!r}, now it "
                f"is {present[name]!r}. Change it back, or start anew in another folder."
            )
    tensors = _tensors(path, header)
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


# --- what is kept -----------------------------------------------------------------------------------------------------


def _parameters(trainer: Trainer) -> dict[str, Tensor]:
    return {name: p for name, p in trainer.model.named_parameters() if not name.startswith("target_model.")}


def _collect(trainer: Trainer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    parameters = _parameters(trainer)
    tensors = {f"model/{name}": p.detach() for name, p in parameters.items()}
    for name, p in parameters.items():
        for key, value in trainer.optimizer.state.get(p, {}).items():
            tensors[f"optimizer/{name}/{key}"] = value
    sources: dict[str, int] = {}
    for index, kept in trainer.persistent.items():
        sources[str(index)] = kept.steps
        for site, source in kept.sources.items():
            tensors[f"sources/{index}/{site}/value"] = source
        for site, (m, v) in kept.moments.items():
            tensors[f"sources/{index}/{site}/m"], tensors[f"sources/{index}/{site}/v"] = m, v
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
    trainer.sampler.load_state_dict({"generator": tensors["sampler"]})
    trainer.step_count = header["step"]


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


# --- the file ---------------------------------------------------------------------------------------------------------


def _digest(tensors: Mapping[str, Shaped[Tensor, "..."]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _header(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            found: dict[str, Any] = json.loads((file.metadata() or {})["spd"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"a checkpoint is a safetensors file that spd wrote; {path} is not, or is truncated: {error}. Name another "
            "one."
        ) from error
    if found.get("format") != FORMAT_VERSION:
        raise CheckpointError(
            f"this version reads checkpoints of format {FORMAT_VERSION}; {path} has format {found.get('format')}. Use "
            "the version of spd that wrote it."
        )
    return found


def _tensors(path: Path, header: Mapping[str, Any]) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    if _digest(tensors) != header["sha256"]:
        raise CheckpointError(
            f"a checkpoint's tensors have the SHA-256 that its header says; those of {path} do not: it is damaged. Use "
            "an earlier one."
        )
    return tensors
