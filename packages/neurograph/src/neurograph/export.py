"""Networks in files of a few kilobytes: integers, tables, who listens to whom, codes.

An export is a folder of three files.

==================== ===============================================================================================
network.safetensors  integers, sources and codes, as bits
tables.safetensors   cosines, sines (Q30) and magnitudes as whole numbers: the same for all networks of one grid
export.json          settings, and a SHA-256 of them and of both other files; written last
==================== ===============================================================================================

What is stored is the network as `compacted` leaves it. Its bits, format 2:

integers   ⌈log2 P⌉ for each phase of an input, then ⌈log2 P⌉ + ⌈log2 M⌉ for each pair of another node, node by node
sources    group by group. A group is the nodes of one depth with K sources each, all of them among the W rows from
           `low` on; `groups` in export.json lists count, K, low, W and k. The sets of sources, each by its rank among
           the C(W, K) there are, rise within a group, so that their gaps are stored, as Golomb–Rice codes of parameter
           k (`neurograph.bit_codes`)
codes      one for a sign, row by row; or int32 numbers, where codes are no signs

Each file is whole or absent. A process that is killed between two of them leaves a folder that `load_exported` refuses.
`load_exported` makes an :class:`~neurograph.integer_network.IntegerNetwork`, which needs NumPy alone.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as parse_tensors
from safetensors.numpy import save as tensor_bytes

from neurograph.bit_codes import (
    BitReader,
    fixed_bits,
    packed,
    rank_of,
    rice_bits,
    rice_parameter,
    subset_of,
    width_of,
)
from neurograph.errors import CheckpointError, ConfigError
from neurograph.files import write_whole
from neurograph.integer_network import IntegerNetwork, quantised

if TYPE_CHECKING:
    from neurograph.model import Model

__all__ = ["FORMAT", "ExportSizes", "ExportedModel", "compacted", "export_integers", "integers_of", "load_exported"]

FORMAT = 2
_KIND = "neurograph integers"
_NETWORK, _TABLES, _HEADER = "network.safetensors", "tables.safetensors", "export.json"
_WAY_OUT = "Export the model again."

ExportedModel = IntegerNetwork
"""What `load_exported` returns."""


@dataclass(frozen=True)
class ExportSizes:
    """Bytes of an export.

    Args:
        n_integers: how many integers were trained.
        n_stored: how many of them are in the file.
        left_out: nodes that are not, as they reach no output.
        integers: bytes of the integers.
        topology: bytes of sources.
        codes: bytes of codes.
        network_file: bytes of the file that holds these three.
        tables_file: bytes of the tables.
        header_file: bytes of the settings.
    """

    n_integers: int
    n_stored: int
    left_out: int
    integers: int
    topology: int
    codes: int
    network_file: int
    tables_file: int
    header_file: int

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return self.network_file + self.tables_file + self.header_file


# --- from a model ---------------------------------------------------------------------------------------------------


def integers_of(model: "Model") -> IntegerNetwork:
    """A trained model as whole numbers.

    Args:
        model: merges by superposition, snaps, does not radiate.

    Returns:
        The network, on the CPU.

    Raises:
        ConfigError: a model of another kind, or numbers that are not finite.
    """
    engine, topology, tables = model.engine, model.topology, model.tables
    if engine.merge != "superpose" or not engine.snap or engine.radiation is not None:
        raise ConfigError(
            f"networks that superpose, snap and do not radiate have a form in integers; got merge={engine.merge!r}, "
            f"snap={engine.snap}, radiation {'off' if engine.radiation is None else 'on'}. Train one of that kind."
        )
    inputs = topology.inputs.tolist()
    depth = topology.level.tolist()
    fed = set(inputs)
    rest = sorted((row for row in range(topology.n_nodes) if row not in fed), key=lambda row: depth[row])
    order = [*inputs, *rest]
    place = {row: new for new, row in enumerate(order)}
    sources: list[list[int]] = [[] for _ in order]
    for source, target in zip(topology.src.tolist(), topology.dst.tolist(), strict=True):
        sources[place[target]].append(place[source])
    phase, mag = (part.cpu().numpy().astype(np.int64)[order] for part in (model.store.phase, model.store.mag))
    mag[: len(inputs)] = 0
    magnitude = tables.mag.double().cpu().numpy()
    magnitude_q = 30 - max(0, int(np.ceil(np.log2(magnitude.max()))))
    return IntegerNetwork(
        phase=phase,
        mag=mag,
        n_inputs=len(inputs),
        sources=tuple(tuple(sorted(of)) for of in sources),
        outputs=tuple(place[row] for row in topology.outputs.tolist()),
        codes=_whole_codes(model.codes.double().cpu().numpy()),
        cos=quantised(tables.cos.double().cpu().numpy(), 30),
        sin=quantised(tables.sin.double().cpu().numpy(), 30),
        magnitude=quantised(magnitude, magnitude_q),
        magnitude_q=magnitude_q,
        scale=float(model.scale),
    )


def _whole_codes(codes: NDArray[np.float64]) -> NDArray[np.int64]:
    if (np.abs(codes) == 1).all():
        return codes.astype(np.int64)
    norms = np.linalg.norm(codes, axis=1, keepdims=True)
    if not (norms > 0).all():
        raise ConfigError("the code of a class has a direction; one is all zeros. Give each class a code.")
    return quantised(codes / norms, 30)


def compacted(network: IntegerNetwork) -> IntegerNetwork:
    """The same network without what nobody hears: it gives the same scores.

    Nodes from which no way leads to an output are left out. An input stays in any case, for samples have a number for
    it. Nodes are sorted by depth, then by number of sources, then by their sources, the largest first: their order
    carries no information then.

    Args:
        network: any.

    Returns:
        Another; compacted again, it stays as it is.
    """
    heard = set(network.outputs)
    for row in range(len(network.sources) - 1, -1, -1):
        if row in heard:
            heard.update(network.sources[row])
    silent = [row for row in range(network.n_inputs, len(network.sources)) if not network.sources[row] and row in heard]
    order = [*range(network.n_inputs), *silent]
    place = {row: new for new, row in enumerate(order)}
    sources: list[tuple[int, ...]] = [()] * len(order)
    for level in network.levels:
        found = [
            (sorted((place[source] for source in network.sources[row]), reverse=True), row)
            for row in level.rows.tolist()
            if row in heard
        ]
        for falling, row in sorted(found):
            place[row] = len(order)
            order.append(row)
            sources.append(tuple(reversed(falling)))
    return replace(
        network, phase=network.phase[order], mag=network.mag[order], sources=tuple(sources),
        outputs=tuple(place[row] for row in network.outputs),
    )  # fmt: skip


@dataclass(frozen=True)
class _Group:
    """Nodes in a row with as many sources, and where their sources lie; `of` and `read` are inverse."""

    count: int
    each: int
    low: int
    window: int
    k: int

    @classmethod
    def of(cls, sources: NDArray[np.int64]) -> tuple["_Group", str]:
        """A group and its bits, of sets of sources that rise."""
        low = int(sources.min())
        ranks = [rank_of(row) for row in (sources - low).tolist()]
        gaps = [after - before for before, after in pairwise([0, *ranks])]
        k = rice_parameter(gaps)
        count, each = sources.shape
        return cls(count, each, low, int(sources.max()) + 1 - low, k), rice_bits(gaps, k)

    def read(self, bits: BitReader) -> list[tuple[int, ...]]:
        ranks = accumulate(bits.rice(self.count, self.k))
        return [tuple(self.low + s for s in subset_of(rank, self.each, self.window)) for rank in ranks]


# --- files ----------------------------------------------------------------------------------------------------------


def export_integers(model: "Model | IntegerNetwork", path: str | Path) -> ExportSizes:
    """Writes a trained model.

    Args:
        model: a model or its integers.
        path: a folder, made where it is missing.

    Returns:
        How large everything is.

    Raises:
        ConfigError: a model that has no form in integers.
    """
    whole = model if isinstance(model, IntegerNetwork) else integers_of(model)
    network, folder = compacted(whole), Path(path)
    wp, wm = width_of(network.phase_bins), width_of(network.mag_bins)
    n = network.n_inputs
    pairs = (network.phase[n:] << wm) + network.mag[n:]
    groups = [_Group.of(level.sources) for level in network.levels]
    parts = {
        "integers": packed(fixed_bits(network.phase[:n].flat, wp) + fixed_bits(pairs.flat, wp + wm)),
        "sources": packed("".join(bits for _, bits in groups)),
        "codes": np.packbits(network.codes.reshape(-1) > 0)
        if network.has_sign_codes
        else network.codes.astype(np.int32),
    }
    tables = {name: getattr(network, name).astype(np.int32) for name in ("cos", "sin", "magnitude")}
    files = {_NETWORK: tensor_bytes(parts), _TABLES: tensor_bytes(tables)}
    header: dict[str, Any] = {
        "format": FORMAT, "kind": _KIND, "nodes": len(network.sources), "dim": network.phase.shape[1], "inputs": n,
        "outputs": list(network.outputs), "classes": len(network.codes), "scale": network.scale,
        "magnitude_q": network.magnitude_q, "groups": [list(vars(group).values()) for group, _ in groups],
    }  # fmt: skip
    header["sha256"] = _digest(header, files)
    files[_HEADER] = json.dumps(header, separators=(",", ":")).encode()
    for name, content in files.items():
        _write(folder / name, content)
    return ExportSizes(
        whole.n_integers, network.n_integers, len(whole.sources) - len(network.sources),
        *(parts[name].nbytes for name in ("integers", "sources", "codes")),
        *(len(files[name]) for name in (_NETWORK, _TABLES, _HEADER)),
    )  # fmt: skip


def _digest(header: Mapping[str, Any], files: Mapping[str, bytes]) -> str:
    """SHA-256 of settings and files."""
    parts = [header, {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _write(path: Path, content: bytes) -> None:
    write_whole(path, lambda temporary: temporary.write_bytes(content))


def load_exported(path: str | Path) -> IntegerNetwork:
    """Reads what `export_integers` wrote.

    Args:
        path: the folder.

    Returns:
        The network; it predicts with NumPy alone.

    Raises:
        CheckpointError: files that are missing, damaged, of another kind or too new.
    """
    folder = Path(path)
    try:
        header = json.loads((folder / _HEADER).read_text(encoding="utf-8"))
        contents = {name: (folder / name).read_bytes() for name in (_NETWORK, _TABLES)}
        found = (header["kind"], header["format"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"an export is a folder with {_HEADER}, {_NETWORK} and {_TABLES}; {folder} is not: {error!r}. {_WAY_OUT}"
        ) from error
    if found != (_KIND, FORMAT):
        raise CheckpointError(
            f"this version reads {_KIND} of format {FORMAT}; {folder} holds {found[0]} of format {found[1]}. Export "
            "the model again, or use the version that wrote it."
        )
    if header.pop("sha256", None) != _digest(header, contents):
        raise CheckpointError(
            f"an export has the SHA-256 that its {_HEADER} says; {folder} has another: a file of it is damaged or of "
            f"another export. {_WAY_OUT}"
        )
    try:
        return _network(header, *(parse_tensors(contents[name]) for name in (_NETWORK, _TABLES)))
    except CheckpointError:
        raise
    except (SafetensorError, LookupError, ValueError, TypeError, ArithmeticError) as error:
        raise CheckpointError(
            f"the parts of an export fit together; those of {folder} do not: {error!r}. {_WAY_OUT}"
        ) from error


def _network(
    header: Mapping[str, Any], parts: Mapping[str, NDArray[Any]], tables: Mapping[str, NDArray[Any]]
) -> IntegerNetwork:
    n, d, inputs, classes = (int(header[name]) for name in ("nodes", "dim", "inputs", "classes"))
    cos, sin, magnitude = (tables[name].astype(np.int64) for name in ("cos", "sin", "magnitude"))
    wp, wm = width_of(len(cos)), width_of(len(magnitude))
    bits, edges = BitReader(parts["integers"]), BitReader(parts["sources"])
    phases = np.array(bits.fixed(inputs * d, wp), dtype=np.int64)
    pairs = np.array(bits.fixed((n - inputs) * d, wp + wm), dtype=np.int64)
    listening = [sources for group in header["groups"] for sources in _Group(*group).read(edges)]
    outputs = tuple(int(row) for row in header["outputs"])
    length = len(outputs) * d
    codes = parts["codes"].astype(np.int64)
    if parts["codes"].dtype == np.uint8:
        signs = BitReader(parts["codes"])
        codes = 2 * np.array(signs.fixed(classes * length, 1), dtype=np.int64) - 1
        signs.end()
    bits.end()
    edges.end()
    return IntegerNetwork(
        phase=np.concatenate([phases, pairs >> wm]).reshape(n, d),
        mag=np.concatenate([0 * phases, pairs & ((1 << wm) - 1)]).reshape(n, d),
        n_inputs=inputs,
        sources=(*[()] * (n - len(listening)), *listening),
        outputs=outputs,
        codes=codes.reshape(classes, length),
        cos=cos,
        sin=sin,
        magnitude=magnitude,
        magnitude_q=int(header["magnitude_q"]),
        scale=float(header["scale"]),
    )
