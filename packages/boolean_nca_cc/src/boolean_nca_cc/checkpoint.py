"""Checkpoints: one file that is either whole or absent.

A checkpoint is a safetensors file. Arrays (tables, wires, optimizer state, random key, recorded numbers) are its
tensors; the rest (format, circuit, step, settings) is JSON in its header. One file means one rename: it is written
under a temporary name in the same folder, fsynced, renamed over the old one, and the folder is fsynced. Whoever is
killed at any moment leaves the last whole checkpoint behind. Nothing in it is executed on loading.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree, Shaped
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize

from boolean_nca_cc.circuits.model import Circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.circuits.wiring import check_wires
from boolean_nca_cc.errors import CheckpointError

__all__ = ["FORMAT_VERSION", "Checkpoint", "load", "save"]

FORMAT_VERSION = 1
_MARK = "boolean_nca_cc.checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run needs to go on as if nothing had happened.

    Args:
        spec: the circuit's layers.
        circuit: wires and tables.
        step: steps done.
        settings: what the run was asked to do; JSON values only.
        opt_state: the optimizer's state, or None.
        key: the random key to go on with, or None.
        record: numbers so far, by name: learning curves, results of patterns.
        tree: any other arrays of the run, such as a rule's weights and its pool of circuits, or None.
    """

    spec: CircuitSpec
    circuit: Circuit
    step: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    opt_state: PyTree | None = None
    key: Shaped[Array, "..."] | None = None
    record: dict[str, Shaped[np.ndarray, "..."]] = field(default_factory=dict)
    tree: PyTree | None = None


def save(path: str | os.PathLike[str], checkpoint: Checkpoint) -> Path:
    """Writes a checkpoint in one indivisible step; the folder is made if need be.

    Args:
        path: the file, usually `….safetensors`.
        checkpoint: what to keep.

    Returns:
        The path.

    Raises:
        CheckpointError: settings that JSON cannot hold.

    >>> from boolean_nca_cc.circuits.model import gen_circuit
    >>> spec = CircuitSpec.default(4, 2)
    >>> circuit = gen_circuit(jax.random.key(0), spec.layer_sizes, spec.arity)
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     load(save(Path(folder) / "last.safetensors", Checkpoint(spec, circuit, step=7))).step
    7
    """
    path = Path(path)
    header: dict[str, Any] = {
        "version": FORMAT_VERSION,
        "layer_sizes": checkpoint.spec.layer_sizes,
        "arity": checkpoint.spec.arity,
        "step": int(checkpoint.step),
        "settings": checkpoint.settings,
        "has_opt_state": checkpoint.opt_state is not None,
    }
    tensors = _named("wires", checkpoint.circuit.wires) | _named("logits", checkpoint.circuit.logits)
    tensors |= _named("opt_state", checkpoint.opt_state) | _named("tree", checkpoint.tree)
    tensors |= {f"record/{name}": np.asarray(values) for name, values in checkpoint.record.items()}
    if checkpoint.key is not None:
        typed = jnp.issubdtype(checkpoint.key.dtype, jax.dtypes.prng_key)
        header["key_impl"] = str(jax.random.key_impl(checkpoint.key)) if typed else None
        tensors["key"] = np.asarray(jax.random.key_data(checkpoint.key) if typed else checkpoint.key)
    try:
        text = json.dumps(header, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"a checkpoint's settings are JSON values; {error}. Pass numbers, texts, lists and dictionaries, and put "
            "arrays into `record`."
        ) from error
    # One entry only: safetensors writes several in no fixed order, and the same state should be the same file.
    content = serialize({name: np.asarray(t, order="C") for name, t in tensors.items()}, {_MARK: text})
    write_atomically(path, content)
    return path


def load(
    path: str | os.PathLike[str],
    *,
    spec: CircuitSpec | None = None,
    opt_state: PyTree | None = None,
    tree: PyTree | None = None,
) -> Checkpoint:
    """Reads a checkpoint and checks that it is whole and ours.

    Args:
        path: the file.
        spec: the circuit that is expected; None takes any.
        opt_state: an optimizer state of the same structure, as `optimizer.init(logits)` gives, to be filled; None
            leaves the saved state aside.
        tree: a tree like the saved one, to be filled; None leaves it aside.

    Returns:
        The checkpoint.

    Raises:
        CheckpointError: no such file; a truncated or foreign one, or one of a later format; another circuit; another
            optimizer; a tree of other arrays.

    >>> load("nowhere.safetensors")
    Traceback (most recent call last):
        ...
    boolean_nca_cc.errors.CheckpointError: a checkpoint is a file; nowhere.safetensors is none. Check the path, or \
train first.
    """
    path = Path(path)
    text, tensors = _read(path)
    with _consistent(path):
        header = json.loads(text)
        version = header["version"]
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"this version reads checkpoints of format {FORMAT_VERSION}; {path} has format {version}. "
            "Load it with the version of boolean_nca_cc that wrote it."
        )
    with _consistent(path):
        found = CircuitSpec(tuple((n, s) for n, s in header["layer_sizes"]), header["arity"])
        wires = [jnp.asarray(tensors[f"wires/{layer}"]) for layer in range(found.n_layers)]
        logits = [jnp.asarray(tensors[f"logits/{layer}"]) for layer in range(found.n_layers)]
        check_wires(wires, found)
        if CircuitSpec.from_logits(logits, found.n_in) != found:
            raise ValueError("the tables are not those of the layers")
        step, settings, key = header["step"], header["settings"], None
        if "key" in tensors:
            key = jnp.asarray(tensors["key"])
            key = jax.random.wrap_key_data(key, impl=header["key_impl"]) if header["key_impl"] else key
        has_opt_state = header["has_opt_state"]
    if spec is not None and spec != found:
        raise CheckpointError(
            f"a checkpoint continues only the circuit that it holds; {path} has layers {_shown(found)}, this run asks "
            f"for {_shown(spec)}. Start a new run in another folder, or ask for the same circuit."
        )
    if opt_state is not None:
        if not has_opt_state:
            raise CheckpointError(f"the run needs an optimizer state; {path} has none. Start with a fresh state.")
        opt_state = _filled("opt_state", opt_state, tensors, path)
    if tree is not None:
        tree = _filled("tree", tree, tensors, path)
    record = {name.removeprefix("record/"): t for name, t in tensors.items() if name.startswith("record/")}
    return Checkpoint(found, Circuit(wires, logits), step, settings, opt_state, key, record, tree)


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces a file by new content; after a crash it holds either the old or the new, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # One name for all attempts: what a killed process leaves behind, the next one overwrites.
    temporary = path.with_name(f".{path.name}.partial")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    if os.name == "posix":  # elsewhere a folder cannot be opened; there the rename itself is all there is
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def _consistent(path: Path) -> Iterator[None]:
    """Whatever goes wrong in putting the parts together means that they were not written together."""
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"a checkpoint's parts belong together; in {path} they do not: {error}. Take an older checkpoint."
        ) from error


def _read(path: Path) -> tuple[str, dict[str, Shaped[np.ndarray, "..."]]]:
    if not path.is_file():
        raise CheckpointError(f"a checkpoint is a file; {path} is none. Check the path, or train first.")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    except SafetensorError as error:
        raise CheckpointError(
            f"a checkpoint is a whole safetensors file; {path} ({path.stat().st_size} bytes) is truncated or something "
            f"else: {error}. Take an older checkpoint."
        ) from error
    if _MARK not in metadata:
        raise CheckpointError(
            f"a checkpoint is marked {_MARK}; {path} is a safetensors file of another kind. Check the path."
        )
    return metadata[_MARK], tensors


def _named(prefix: str, tree: PyTree) -> dict[str, Shaped[np.ndarray, "..."]]:
    """A tree's leaves as arrays, named by number: the structure comes back from the program, not from the file."""
    return {f"{prefix}/{number}": np.asarray(jnp.asarray(leaf)) for number, leaf in enumerate(jax.tree.leaves(tree))}


_WHOSE = {
    "opt_state": "an optimizer goes on only from a state of its own kind; {path} holds {theirs}, this optimizer has "
    "{ours}. Use the optimizer of that run, or start with a fresh state.",
    "tree": "a run goes on only with arrays of its own kind; {path} holds {theirs}, this run has {ours}. "
    "Ask for the settings of that run, or start a new one.",
}


def _filled(kind: str, template: PyTree, tensors: dict[str, Shaped[np.ndarray, "..."]], path: Path) -> PyTree:
    leaves, structure = jax.tree.flatten(template)
    saved = [tensors[f"{kind}/{n}"] for n in range(sum(name.startswith(f"{kind}/") for name in tensors))]
    ours = [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves]
    theirs = [(leaf.shape, leaf.dtype) for leaf in saved]
    if ours != theirs:
        raise CheckpointError(_WHOSE[kind].format(path=path, theirs=_few(theirs), ours=_few(ours)))
    return jax.tree.unflatten(structure, [jnp.asarray(leaf) for leaf in saved])


def _few(kinds: list[tuple[tuple[int, ...], Any]]) -> str:
    shown = ", ".join(f"{dtype}{list(shape)}" for shape, dtype in kinds[:3]) + (", …" if len(kinds) > 3 else "")
    return f"{len(kinds)} arrays ({shown})"


def _shown(spec: CircuitSpec) -> str:
    return f"{'-'.join(f'{n}/{s}' for n, s in spec.layer_sizes)} of arity {spec.arity}"
