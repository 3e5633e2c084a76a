"""Files of weights without the model that they belong to: prune them, look at them, write them in other forms."""

import glob
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from resu.checkpoint import load
from resu.core.mask import SparseMask
from resu.core.phases import Phase, sparsify
from resu.core.reports import CommitReport
from resu.distribution import Distribution
from resu.errors import CheckpointError, MaskError
from resu.export.csr import DENSE_BELOW, to_csr
from resu.export.weights import read_weights, save_weights
from resu.pruning.nm import nm_mask, verify_nm
from resu.sparsifier import Sparsifier

__all__ = ["ExportForm", "WeightFileContent", "WeightRow", "export_file", "prune_file", "read_file", "weight_rows"]

ExportForm = Literal["csr", "2:4", "safetensors"]
Kind = Literal["weights", "checkpoint", "csr", "safetensors"]


@dataclass(frozen=True)
class WeightFileContent:
    """What a file holds.

    Args:
        kind: "weights" (written by `save_weights`), "checkpoint" (of a training), "csr" (written by `export_file`), or
            any other "safetensors".
        tensors: by name; tied ones under each of their names.
        masks: by name of their weight; none in a foreign file.
        phases: by name of their weight.
        about: what the file says of itself.
    """

    kind: Kind
    tensors: dict[str, Shaped[Tensor, "..."]]
    masks: dict[str, SparseMask] = field(default_factory=dict)
    phases: dict[str, str] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class WeightRow:
    """A tensor of a file.

    Args:
        name: its name.
        shape: its shape.
        dtype: such as "float32".
        sparsity: share of pruned weights where there is a mask, else of zeros.
        phase: who may be written, where there is a mask.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    sparsity: float
    phase: str | None


def read_file(path: Path) -> WeightFileContent:
    """Reads weights, a checkpoint, or any safetensors file.

    Args:
        path: the file.

    Returns:
        What it holds.

    Raises:
        CheckpointError: no such file, or a truncated, damaged or foreign one.
    """
    if not path.is_file():
        raise CheckpointError(f"weights are read from a file; {path} is none. Check the path.")
    try:
        with safe_open(path, framework="pt") as file:
            marks = file.metadata() or {}
            names = [] if {"resu.weights", "resu.checkpoint"} & set(marks) else file.keys()
            plain = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise CheckpointError(
            f"weights are a whole safetensors file; {path} ({path.stat().st_size} bytes) is truncated or something "
            f"else: {error}. Export it again."
        ) from error
    if "resu.weights" in marks:
        found = read_weights(path)
        phases = {name: row["phase"] for name, row in found.metadata["weights"].items()}
        return WeightFileContent("weights", found.tensors, found.masks, phases, dict(found.metadata["extra"]))
    if "resu.checkpoint" in marks:
        saved = load(path)
        layers = saved.sparsifier.get("layers", {})
        masks = {name: SparseMask.from_state_dict(layer["mask"]) for name, layer in layers.items()}
        phases = dict.fromkeys(masks, str(saved.sparsifier.get("phase", Phase.TRAIN)))
        return WeightFileContent("checkpoint", dict(saved.model), masks, phases, dict(saved.about))
    if "resu.csr" in marks:
        return WeightFileContent("csr", plain, about=json.loads(marks["resu.csr"]))
    return WeightFileContent("safetensors", plain)


def weight_rows(content: WeightFileContent) -> list[WeightRow]:
    """One row a tensor, in the order of their names.

    Args:
        content: from `read_file`.

    Returns:
        The rows.
    """
    rows = []
    for name, tensor in sorted(content.tensors.items()):
        mask = content.masks.get(name)
        zeros = 1 - int(tensor.count_nonzero()) / max(tensor.numel(), 1)
        rows.append(
            WeightRow(
                name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."),
                zeros if mask is None else mask.sparsity, content.phases.get(name),
            )
        )  # fmt: skip
    return rows


def prune_file(
    path: Path,
    out: Path,
    sparsity: float,
    *,
    distribution: Distribution = "global",
    exclude: Iterable[str] = (),
    force: bool = False,
) -> CommitReport:
    """Prunes the smallest |w| of a file's weights, in exact number, and writes weights and masks.

    Everything of two and more dimensions that holds floats takes part.

    Args:
        path: what to prune.
        out: where to write.
        sparsity: share of pruned weights over all that take part, in [0, 1).
        distribution: how it is spread over layers: "global", "erk" or "uniform".
        exclude: patterns of names to leave out.
        force: replace a file that is there.

    Returns:
        What was pruned.

    Raises:
        CheckpointError: a file that cannot be read, or one at `out` already.
        MaskError: a sparsity outside [0, 1).
        ConfigError: no weight takes part.
    """
    _refuse_a_file(out, force)
    content = read_file(path)
    _refuse_theta(content, path)
    model = _model(content.tensors, path)
    chosen = [glob.escape(name) for name, p in model.named_parameters() if p.dim() >= 2]
    sparsifier = Sparsifier(model, sparsity, distribution=distribution, include=chosen, exclude=tuple(exclude))
    # A weight that is zero everywhere else than before would be a surprise: what is pruned already stays first to go.
    report = sparsifier.prune("magnitude")
    save_weights(out, model, extra={"source": path.name, "pruned": "magnitude", "distribution": distribution})
    return report


def export_file(
    path: Path, out: Path, form: ExportForm, *, dense_below: float = DENSE_BELOW, force: bool = False
) -> list[str]:
    """Writes a file's weights in another form.

    ============= ==================================================================================================
    form          what is written
    ============= ==================================================================================================
    csr           weights of two dimensions from a sparsity on as `crow_indices`, `col_indices` and `values`, under
                  the names that `resu.export.csr.csr_model` uses
    2:4           every weight of two dimensions and fitting columns with two of four neighbours kept, the largest;
                  masks beside it; `resu.export.semi_structured.semi_structured_model` packs the model on its GPU
    safetensors   the weights alone, for a model that knows nothing of masks
    ============= ==================================================================================================

    Args:
        path: what to write anew.
        out: where.
        form: which form.
        dense_below: with "csr", the sparsity below which a weight stays dense.
        force: replace a file that is there.

    Returns:
        Names of the weights that changed their form.

    Raises:
        CheckpointError: a file that cannot be read, or one at `out` already.
        MaskError: no weight that the form fits.
    """
    _refuse_a_file(out, force)
    content = read_file(path)
    _refuse_theta(content, path)
    matrices = {
        name: tensor for name, tensor in content.tensors.items() if tensor.dim() == 2 and tensor.is_floating_point()
    }
    if form == "2:4":
        return _export_pairs(content, matrices, path, out)
    tensors, changed = dict(content.tensors), list(matrices) if form == "safetensors" else []
    if form == "csr":
        sparse = {row.name: row.sparsity for row in weight_rows(content)}
        for name, weight in matrices.items():
            if sparse[name] >= dense_below:
                csr, prefix = to_csr(weight), name.removesuffix("weight").rstrip(".")
                prefix = f"{prefix}." if prefix else ""
                parts = {"crow_indices": csr.crow_indices(), "col_indices": csr.col_indices(), "values": csr.values()}
                tensors |= {f"{prefix}{part}": value for part, value in parts.items()}
                del tensors[name]
                changed.append(name)
        if not changed:
            raise MaskError(
                f"compressed sparse rows pay from a sparsity of {dense_below:g} on; the sparsest weight of {path} has "
                f"{max(sparse[name] for name in matrices) if matrices else 0:.3f}. Prune further, or give a lower "
                "--dense-below."
            )
    shapes = {name: list(content.tensors[name].shape) for name in changed}
    _write(out, tensors, {f"resu.{form}": json.dumps({"shapes": shapes})} if form == "csr" else {})
    return changed


def _export_pairs(content: WeightFileContent, matrices: Mapping[str, Tensor], path: Path, out: Path) -> list[str]:
    model = _model(content.tensors, path)
    parameters, changed = dict(model.named_parameters(remove_duplicate=False)), []
    for name, weight in matrices.items():
        if weight.shape[1] % 4:
            continue
        if not verify_nm(weight, 2, 4).holds:
            changed.append(name)
        mask = nm_mask(weight, 2, 4)
        with torch.no_grad():
            mask.apply_(parameters[name])
        sparsify(parameters[name], mask, name)
    if not any(weight.shape[1] % 4 == 0 for weight in matrices.values()):
        raise MaskError(f"2:4 wants weights of two dimensions with columns in fours; {path} has none. Export to csr.")
    save_weights(out, model, extra={"source": path.name, "pruned": "2:4"})
    return changed


def _model(tensors: Mapping[str, Tensor], path: Path) -> nn.Module:
    """A tree of empty modules that carries the tensors under their names, with no forward pass."""
    model, made = nn.Module(), dict[int, nn.Parameter]()
    for name, tensor in tensors.items():
        *owners, last = name.split(".")
        module = model
        try:
            for owner in owners:
                if owner not in module._modules:
                    module.add_module(owner, nn.Module())
                module = module.get_submodule(owner)
            if tensor.is_floating_point():
                parameter = made.setdefault(id(tensor), nn.Parameter(tensor, requires_grad=False))
                module.register_parameter(last, parameter)
            else:
                module.register_buffer(last, tensor)
        except (KeyError, AttributeError) as error:
            raise CheckpointError(
                f"tensors of a model have names such as layers.0.weight; {name!r} of {path} is none that a module can "
                f"have ({error}). Rename it."
            ) from error
    return model


def _refuse_theta(content: WeightFileContent, path: Path) -> None:
    phase = next((phase for phase in content.phases.values() if phase in (Phase.RESU, Phase.JOINT)), None)
    if phase is not None:
        raise CheckpointError(
            f"pruned weights are zero outside RESU and JOINT; those of {path} are being trained (phase {phase}). "
            "Commit first: go on with the training to the end of its cycle."
        )


def _refuse_a_file(out: Path, force: bool) -> None:
    if out.exists() and not force:
        raise CheckpointError(
            f"a file that is there is not replaced unasked; {out} is there. Replace it (--force), or name another "
            "(--out)."
        )


def _write(out: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.partial")
    # Tied weights are written under each of their names: whoever reads this knows nothing of ties.
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, temporary, metadata)
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(out)
