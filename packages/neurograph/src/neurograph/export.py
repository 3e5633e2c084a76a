"""Networks in files of a few kilobytes: integers, tables, who listens to whom, codes.

An export is a folder of three files.

==================== ===============================================================================================
network.safetensors  indices, ⌈log2 P⌉ + ⌈log2 M⌉ bits a pair and ⌈log2 P⌉ bits a phase of an input; sources, as many
                     bits as tell those of a level apart; codes, one bit a sign
tables.safetensors   cosines, sines (Q30) and magnitudes as whole numbers
export.json          settings, and the SHA-256 of both other files; written last
==================== ===============================================================================================

`load_exported` reads it into an :class:`~neurograph.integer_network.IntegerNetwork`, which needs NumPy alone.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Int64, UInt8
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as parse_tensors
from safetensors.numpy import save as tensor_bytes

from neurograph.errors import CheckpointError, ConfigError
from neurograph.files import write_whole
from neurograph.integer_network import IntegerNetwork, quantised

if TYPE_CHECKING:
    from neurograph.model import Model

__all__ = ["FORMAT", "ExportSizes", "ExportedModel", "export_integers", "integers_of", "load_exported"]

FORMAT = 1
_NETWORK, _TABLES, _HEADER = "network.safetensors", "tables.safetensors", "export.json"
_WAY_OUT = "Export the model again."

ExportedModel = IntegerNetwork
"""What `load_exported` returns."""


@dataclass(frozen=True)
class ExportSizes:
    """Bytes of an export.

    Args:
        n_integers: how many integers were trained.
        integers: bytes of their bits.
        topology: bytes of sources.
        codes: bytes of codes.
        network_file: bytes of the file that holds these three.
        tables_file: bytes of the tables.
        header_file: bytes of the settings.
    """

    n_integers: int
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
        ConfigError: a model of another kind.
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
    degree = topology.in_degree.tolist()
    rest = sorted((row for row in range(topology.n_nodes) if row not in fed), key=lambda r: (depth[r], degree[r], r))
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
    return quantised(codes / np.linalg.norm(codes, axis=1, keepdims=True), 30)


# --- bits -----------------------------------------------------------------------------------------------------------


def width_of(choices: int) -> int:
    """Bits that tell so many choices apart: ⌈log2 n⌉.

    >>> [width_of(n) for n in (1, 2, 512, 513)]
    [0, 1, 9, 10]
    """
    return (choices - 1).bit_length()


def _bits(values: NDArray[np.int64], width: int) -> Bool[np.ndarray, "n width"]:
    return (values.reshape(-1, 1) >> np.arange(width - 1, -1, -1) & 1).astype(bool)


def _numbers(bits: NDArray[np.bool_]) -> Int64[np.ndarray, " n"]:
    return bits.astype(np.int64) @ (1 << np.arange(bits.shape[1] - 1, -1, -1, dtype=np.int64))


def _packed(parts: Iterable[NDArray[np.bool_]]) -> UInt8[np.ndarray, " bytes"]:
    return np.packbits(np.concatenate([np.zeros(0, dtype=bool), *(part.reshape(-1) for part in parts)]))


class _Stream:
    """Reads numbers of any width off packed bits."""

    def __init__(self, packed: NDArray[np.uint8]) -> None:
        self._bits, self._at = np.unpackbits(packed).astype(bool), 0

    def take(self, n: int, width: int) -> NDArray[np.bool_]:
        end = self._at + n * width
        if end > len(self._bits):
            raise ValueError(f"{end} bits are needed and {len(self._bits)} are there")
        found = self._bits[self._at : end].reshape(n, width)
        self._at = end
        return found


@dataclass(frozen=True)
class _Run:
    """Nodes in a row with as many sources, out of one window."""

    start: int
    sources: NDArray[np.int64]

    @property
    def low(self) -> int:
        return int(self.sources.min())

    @property
    def window(self) -> int:
        return int(self.sources.max()) + 1 - self.low

    @property
    def header(self) -> list[int]:
        return [self.start, *self.sources.shape, self.low, self.window]

    @property
    def bits(self) -> NDArray[np.bool_]:
        return _bits(self.sources - self.low, width_of(self.window))


def _runs(network: IntegerNetwork) -> list[_Run]:
    found = []
    for level in network.levels:
        cuts = np.flatnonzero(np.diff(level.rows) != 1) + 1
        parts = zip(np.split(level.rows, cuts), np.split(level.sources, cuts), strict=True)
        found += [_Run(int(rows[0]), sources) for rows, sources in parts]
    return found


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
    network = model if isinstance(model, IntegerNetwork) else integers_of(model)
    folder = Path(path)
    wp, wm = width_of(network.phase_bins), width_of(network.mag_bins)
    n = network.n_inputs
    pairs = np.concatenate([_bits(network.phase[n:], wp), _bits(network.mag[n:], wm)], axis=1)
    runs = _runs(network)
    packed = {
        "integers": _packed([_bits(network.phase[:n], wp), pairs]),
        "sources": _packed([run.bits for run in runs]),
        "codes": np.packbits(network.codes.reshape(-1) > 0)
        if network.has_sign_codes
        else network.codes.astype(np.int32),
    }
    tables = {name: getattr(network, name).astype(np.int32) for name in ("cos", "sin", "magnitude")}
    files = {_NETWORK: tensor_bytes(packed), _TABLES: tensor_bytes(tables)}
    header = {
        "format": FORMAT, "kind": "neurograph integers", "nodes": len(network.sources), "dim": network.phase.shape[1],
        "inputs": n, "outputs": list(network.outputs), "classes": len(network.codes), "scale": network.scale,
        "phase_bins": network.phase_bins, "mag_bins": network.mag_bins, "magnitude_q": network.magnitude_q,
        "sign_codes": network.has_sign_codes, "runs": [run.header for run in runs],
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }  # fmt: skip
    files[_HEADER] = json.dumps(header, separators=(",", ":")).encode()
    for name, content in files.items():
        _write(folder / name, content)
    return ExportSizes(
        network.n_integers, packed["integers"].nbytes, packed["sources"].nbytes, packed["codes"].nbytes,
        *(len(files[name]) for name in (_NETWORK, _TABLES, _HEADER)),
    )  # fmt: skip


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
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"an export is a folder with {_HEADER}, {_NETWORK} and {_TABLES}; {folder} is not: {error!r}. {_WAY_OUT}"
        ) from error
    if found != ("neurograph integers", FORMAT):
        raise CheckpointError(
            f"this version reads neurograph integers of format {FORMAT}; {folder} holds {found}. "
            "Use the version that wrote it."
        )
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != header.get("sha256", {}).get(name):
            raise CheckpointError(
                f"the SHA-256 of {name} is that of {_HEADER}; in {folder} it is not: one of them is damaged or of "
                f"another export. {_WAY_OUT}"
            )
    try:
        return _network(header, *(parse_tensors(contents[name]) for name in (_NETWORK, _TABLES)))
    except (SafetensorError, KeyError, ValueError, TypeError, IndexError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"the parts of an export fit together; those of {folder} do not: {error!r}. {_WAY_OUT}"
        ) from error


def _network(
    header: Mapping[str, Any], packed: Mapping[str, NDArray[Any]], tables: Mapping[str, NDArray[Any]]
) -> IntegerNetwork:
    n, d, inputs, classes = (int(header[name]) for name in ("nodes", "dim", "inputs", "classes"))
    wp, wm = width_of(header["phase_bins"]), width_of(header["mag_bins"])
    stream = _Stream(packed["integers"])
    phases = _numbers(stream.take(inputs * d, wp))
    pairs = stream.take((n - inputs) * d, wp + wm)
    outputs = tuple(int(row) for row in header["outputs"])
    length = len(outputs) * d
    if header["sign_codes"]:
        codes = 2 * np.unpackbits(packed["codes"])[: classes * length].astype(np.int64) - 1
    else:
        codes = packed["codes"].astype(np.int64)
    return IntegerNetwork(
        phase=np.concatenate([phases, _numbers(pairs[:, :wp])]).reshape(n, d),
        mag=np.concatenate([0 * phases, _numbers(pairs[:, wp:])]).reshape(n, d),
        n_inputs=inputs,
        sources=_sources(n, header["runs"], _Stream(packed["sources"])),
        outputs=outputs,
        codes=codes.reshape(classes, length),
        cos=tables["cos"].astype(np.int64),
        sin=tables["sin"].astype(np.int64),
        magnitude=tables["magnitude"].astype(np.int64),
        magnitude_q=int(header["magnitude_q"]),
        scale=float(header["scale"]),
    )


def _sources(n: int, runs: Sequence[Sequence[int]], bits: _Stream) -> tuple[tuple[int, ...], ...]:
    found: list[tuple[int, ...]] = [()] * n
    for start, count, each, low, window in runs:
        numbers = _numbers(bits.take(count * each, width_of(window))).reshape(count, each) + low
        for row, of in enumerate(numbers.tolist(), start=start):
            found[row] = tuple(of)
    return tuple(found)
