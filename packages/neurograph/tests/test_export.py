"""What a network answers in whole numbers, from Python and from C, is what the network itself answers."""

import ctypes
import json
import math
import pickle
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neurograph.config import Config, load_config
from neurograph.core.engine import ForwardEngine
from neurograph.core.graph import Topology, build_static_graph
from neurograph.core.high_res_tables import HighResolutionLookupTables
from neurograph.core.node_store import NodeStore
from neurograph.data import Dataset, load_dataset
from neurograph.encodings import hadamard_codes
from neurograph.errors import CheckpointError, ConfigError, DataError
from neurograph.export import _digest, compacted, export_integers, integers_of, load_exported
from neurograph.export_c import c_header, export_c_header
from neurograph.integer_network import IntegerNetwork, gain_of, thresholds
from neurograph.model import Model
from neurograph.train.trainer import Trainer

# Float32 sums of up to 32 phasors are right to about this many units of 1.
NEAR = 1e-6


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits", seed=0)


@pytest.fixture(scope="module")
def trained(digits: Dataset) -> Model:
    config = load_config("digits-small", ["train.epochs=1"])
    model = Model.build(config, seed=0)
    Trainer(model, config.train).fit(digits.train_x, digits.train_y)
    return model


@pytest.fixture(scope="module")
def network(trained: Model) -> IntegerNetwork:
    return integers_of(trained)


def _small(**groups: object) -> Model:
    settings = {"graph": {"widths": (5, 7, 3), "cardinality": 3}, "model": {"dim": 4}, **groups}
    return Model.build(Config.model_validate(settings), seed=1)


def _blocks() -> Model:
    """Nodes with different numbers of sources, edges over several levels, outputs that are fed by inputs."""
    topology = Topology.from_frame(build_static_graph(6, 30, 3, cardinality=5, seed=3))
    tables = HighResolutionLookupTables(24, 40, magnitude="sigmoid", grid="inclusive")
    store = NodeStore.random(topology, 4, tables, seed=2)
    return Model(topology, store, tables, ForwardEngine(topology, tables), hadamard_codes(3, 12))


def _reference(network: IntegerNetwork, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same in float64 with arctangent and tanh: phases, levels, and how far from an edge in bins."""
    n, d = network.phase.shape
    p_bins, top = network.phase_bins, network.mag_bins - 1
    w = network.magnitude[network.mag] / 2.0**network.magnitude_q
    z = np.zeros((len(x), n, d), dtype=complex)
    phase, level, distance = (np.zeros((len(x), n, d)) for _ in range(3))
    for row in range(n):
        if row < network.n_inputs:
            phase[:, row], level[:, row] = network.phase[row], np.rint(x[:, row, None] * top)
            distance[:, row] = 1
        else:
            of = list(network.sources[row])
            u = z[:, of].sum(1) * w[row] / math.sqrt(max(1, len(of)))
            turns, size = np.angle(u) / (2 * np.pi) * p_bins, np.tanh(np.abs(u)) * top
            phase[:, row], level[:, row] = (np.rint(turns) + network.phase[row]) % p_bins, np.rint(size)
            edge = np.minimum(np.abs(turns % 1 - 0.5), np.abs(size % 1 - 0.5))
            distance[:, row] = edge
        z[:, row] = level[:, row] / top * np.exp(2j * np.pi * phase[:, row] / p_bins)
    return np.where(level > 0, phase, 0), level, distance


# --- arithmetic -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [_small, _blocks])
def test_states_are_those_of_real_arithmetic_but_on_edges(make: object) -> None:
    network = integers_of(make())  # type: ignore[operator]
    x = np.random.default_rng(0).random((50, network.n_inputs))
    phase, level, distance = _reference(network, x)
    found_phase, found_level = network.indices(x)
    wrong = (found_phase != phase) | (found_level != level)
    # A state that is on an edge changes those after it: only the first of a sample says something.
    first = [np.flatnonzero(wrong[i].any(-1))[:1] for i in range(len(x))]
    assert all(distance[i, row][wrong[i, row]].max() < NEAR for i, rows in enumerate(first) for row in rows)
    assert wrong.any(axis=(1, 2)).sum() <= 1
    assert level[:, network.n_inputs :].max() > 1


def test_the_network_itself_agrees_but_on_edges(trained: Model, network: IntegerNetwork, digits: Dataset) -> None:
    x = digits.test_x[:120]
    phase, level = network.indices(x.numpy())
    state = trained.state(x)
    # Layered graphs are in order of evaluation already. A state of level 0 has no angle.
    theirs = np.where(level > 0, state.phase.transpose(0, 1).numpy(), 0)
    sizes = np.rint(state.planar.detach().norm(dim=2).transpose(0, 1).numpy() * (network.mag_bins - 1))
    wrong = (phase != theirs) | (level != sizes)
    _, _, distance = _reference(network, x.numpy().astype(np.float64))
    first_level = slice(64, 192)
    # The first level has the same sources everywhere: whatever differs there lies on an edge. Pixels take 17 values, so
    # that sums of two often do: in the middle between two bins.
    assert wrong[:, :64].sum() == 0
    # Within float32's rounding of an angle, 2e-7 rad of 0.012 a bin.
    assert distance[:, first_level][wrong[:, first_level]].max() < 1e-4
    assert wrong.mean() < 1e-3
    assert (network.predict(digits.test_x.numpy()) == trained.predict(digits.test_x).numpy()).mean() >= 0.997
    np.testing.assert_allclose(
        network.logits(digits.test_x.numpy()), trained.logits(digits.test_x).detach().numpy(), atol=0.05
    )


def test_a_batch_is_its_samples(network: IntegerNetwork, digits: Dataset) -> None:
    x = digits.test_x[:7].numpy()
    logits = network.logits(x)
    assert all((network.logits(x[i : i + 1]) == logits[i]).all() for i in range(7))
    assert network.scores(x[:0]).shape == (0, 10)


def test_logits_are_cosines(network: IntegerNetwork, digits: Dataset) -> None:
    x = digits.test_x[:20].numpy()
    readout = network.readout(x) / 2.0**30
    codes = network.codes.astype(float)
    cosine = readout @ codes.T / np.linalg.norm(readout, axis=1)[:, None] / np.linalg.norm(codes, axis=1)
    np.testing.assert_allclose(network.logits(x), 12 * cosine, atol=1e-5)


def test_darkness_has_no_score(network: IntegerNetwork) -> None:
    assert (network.logits(np.zeros((1, 64))) == 0).all()
    phase, level = network.indices(np.zeros((1, 64)))
    assert not phase.any()
    assert not level.any()


@given(st.integers(1, 5000))
def test_gains_are_inverse_roots(k: int) -> None:
    gain, shift = gain_of(k)
    assert 1 << 29 <= gain < 1 << 30
    assert math.isclose(gain / 2**shift, k**-0.5, rel_tol=2e-9)


@given(st.integers(2, 5000))
def test_thresholds_rise_and_stay_below_32_bits(bins: int) -> None:
    edges = thresholds(bins)
    assert len(edges) == bins - 1
    assert (np.diff(edges) > 0).all()
    assert edges[-1] < 1 << 32
    assert math.isclose(math.tanh(edges[0] / 2**28) * (bins - 1), 0.5, rel_tol=1e-4)


def test_inputs_are_rounded_to_even_levels() -> None:
    network = integers_of(_small(tables={"phase_bins": 8, "mag_bins": 5}))
    x = np.array([[0.125, 0.375, 0.625, 1.0, 0.13]])
    assert network.input_levels(x).tolist() == [[0, 2, 2, 4, 1]]  # 0.5, 1.5, 2.5, 4, 0.52


@pytest.mark.parametrize("x", [np.zeros((2, 63)), np.zeros(64), np.full((1, 64), np.nan), np.full((1, 64), 1.1)])
def test_samples_that_do_not_fit_are_refused(network: IntegerNetwork, x: np.ndarray) -> None:
    with pytest.raises(DataError, match="samples"):
        network.predict(x)


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [_small, _blocks, lambda: _small(tables={"phase_bins": 100, "mag_bins": 2})])
def test_an_export_comes_back_whole(make: object, tmp_path: Path) -> None:
    whole = integers_of(make())  # type: ignore[operator]
    network = compacted(whole)
    export_integers(whole, tmp_path / "a")
    found = load_exported(tmp_path / "a")
    for name in ("phase", "mag", "codes", "cos", "sin", "magnitude"):
        assert (getattr(found, name) == getattr(network, name)).all(), name
    for name in ("n_inputs", "sources", "outputs", "magnitude_q", "scale", "n_integers"):
        assert getattr(found, name) == getattr(network, name), name
    x = np.random.default_rng(1).random((20, network.n_inputs))
    assert (found.scores(x) == whole.scores(x)).all()
    export_integers(found, tmp_path / "b")
    assert all((tmp_path / "b" / file.name).read_bytes() == file.read_bytes() for file in (tmp_path / "a").iterdir())
    assert (pickle.loads(pickle.dumps(found)).scores(x) == network.scores(x)).all()


def test_an_export_of_4768_integers_is_below_12_kb(trained: Model, tmp_path: Path) -> None:
    sizes = export_integers(trained, tmp_path)
    assert sizes.n_integers == trained.store.n_trainable == 4768
    assert (sizes.n_stored, sizes.left_out) == (4768, 0)
    # 64 inputs of 9 bits and 138 + 128 others of 9 + 10, 8 phasors each.
    assert sizes.integers == math.ceil((64 * 9 + 266 * 19) * 8 / 8)
    least = _edge_bits((128, 64), (128, 128), (10, 128))
    assert least / 8 <= sizes.topology <= least / 8 + 0.02 * 266
    assert sizes.codes == math.ceil(10 * 80 / 8)
    assert sizes.network_file + sizes.header_file <= 8_000
    assert sizes.total == sum(path.stat().st_size for path in tmp_path.iterdir())


def _edge_bits(*groups: tuple[int, int]) -> float:
    """Bits that n sets of 16 of W nodes take at least, in any order: log2(C(W, 16)ⁿ / n!)."""
    return sum(n * math.log2(math.comb(window, 16)) - math.log2(math.factorial(n)) for n, window in groups)


def test_a_network_of_8864_integers_is_below_12_kb_with_its_edges(digits: Dataset, tmp_path: Path) -> None:
    """Ten outputs hear 160 of the 256 nodes before them."""
    model = Model.build(load_config("digits"), seed=0)
    sizes = export_integers(model, tmp_path)
    assert sizes.n_integers == 8864
    assert (sizes.left_out, sizes.n_stored) == (96, 8864 - 96 * 16)
    assert sizes.integers == 64 * 9 + 426 * 19
    least = _edge_bits((256, 64), (160, 256), (10, 160))
    assert least / 8 <= sizes.topology <= least / 8 + 0.02 * 426
    assert sizes.network_file <= 12_000
    x = digits.test_x.numpy()
    assert (load_exported(tmp_path).scores(x) == integers_of(model).scores(x)).all()


def test_what_nobody_hears_is_left_out_and_inputs_stay() -> None:
    """Nodes 2 and 4 lead to an output, 3 and 5 nowhere; nobody feeds node 6, but it counts among the sources of 8."""
    generator = np.random.default_rng(0)
    whole = IntegerNetwork(
        phase=generator.integers(8, size=(9, 2)), mag=generator.integers(8, size=(9, 2)), n_inputs=2,
        sources=((), (), (0,), (0, 1), (0, 2), (3,), (), (6,), (2, 4, 6)), outputs=(8,),
        codes=np.array([[1, 1], [1, -1]]), cos=np.rint(np.cos(np.arange(8) * np.pi / 4) * 2**30).astype(np.int64),
        sin=np.rint(np.sin(np.arange(8) * np.pi / 4) * 2**30).astype(np.int64),
        magnitude=np.arange(1, 9) << 27, magnitude_q=28, scale=1.0,
    )  # fmt: skip
    found = compacted(whole)
    kept = [0, 1, 6, 2, 4, 8]
    assert found.sources == ((), (), (), (0,), (0, 3), (2, 3, 4))
    assert found.outputs == (5,)
    assert (found.phase == whole.phase[kept]).all()
    assert (found.mag == whole.mag[kept]).all()
    x = generator.random((50, 2))
    assert (found.scores(x) == whole.scores(x)).all()
    assert len(np.unique(found.scores(x))) > 5
    again = compacted(found)
    assert again.sources == found.sources
    assert (again.phase == found.phase).all()


def test_outputs_that_are_not_trained_codes_of_signs_are_kept(tmp_path: Path) -> None:
    model = _small()
    model.codes = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    network = integers_of(model)
    assert not network.has_sign_codes
    x = torch.rand(20, 5, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(network.logits(x.numpy()), model.logits(x).detach().numpy(), atol=0.05)
    export_integers(network, tmp_path)
    assert (load_exported(tmp_path).scores(x.numpy()) == network.scores(x.numpy())).all()


@pytest.mark.parametrize("model", [{"merge": "modular"}, {"snap": False}])
def test_models_without_a_form_in_integers_are_refused(model: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="superpose, snap"):
        export_integers(_small(model={"dim": 4, **model}), tmp_path)


def test_damaged_and_foreign_exports_are_refused(tmp_path: Path) -> None:
    export_integers(_small(), tmp_path / "good")

    def damaged(name: str, content: bytes | None) -> Path:
        folder = tmp_path / "bad"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "good", folder)
        (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
        return folder

    header = json.loads((tmp_path / "good/export.json").read_text())
    whole = (tmp_path / "good/network.safetensors").read_bytes()
    first = json.dumps(header | {"format": 1}).encode()
    for content, match in (
        (b"{", "an export is a folder"), (b"[1]", "an export is a folder"), (b"[" * 9999, "an export is a folder"),
        (first, "of format 2; .* of format 1. Export the model again"),
        (json.dumps(header | {"kind": "other"}).encode(), "format"),
        (json.dumps(header | {"scale": 13.0}).encode(), "SHA-256"),
        (json.dumps({k: v for k, v in header.items() if k != "sha256"}).encode(), "SHA-256"),
    ):  # fmt: skip
        with pytest.raises(CheckpointError, match=match):
            load_exported(damaged("export.json", content))
    for content in (whole[:-1], whole[:-1] + b"\1", b""):
        with pytest.raises(CheckpointError, match="SHA-256"):
            load_exported(damaged("network.safetensors", content))
    with pytest.raises(CheckpointError, match="an export is a folder"):
        load_exported(damaged("tables.safetensors", None))
    with pytest.raises(CheckpointError, match="an export is a folder"):
        load_exported(tmp_path / "nowhere")


def test_an_export_that_is_signed_but_does_not_fit_together_is_refused(tmp_path: Path) -> None:
    export_integers(_small(), tmp_path)
    path = tmp_path / "export.json"
    good = json.loads(path.read_text())
    del good["sha256"]
    files = {name: (tmp_path / name).read_bytes() for name in ("network.safetensors", "tables.safetensors")}
    groups = good["groups"]
    for change, match in (
        ({}, None),
        ({"nodes": 1000}, "fit together"), ({"nodes": 3}, "fit together"), ({"nodes": math.inf}, "fit together"),
        ({"dim": 0}, "belong to nothing"), ({"inputs": -1}, "fit together"), ({"inputs": None}, "fit together"),
        ({"outputs": [99, 1, 2]}, "output nodes"), ({"outputs": 3}, "fit together"), ({"classes": 2}, "fit together"),
        ({"groups": groups[:1]}, "fit together"), ({"groups": [[1, 2]]}, "fit together"), ({"groups": 5}, "fit"),
        ({"groups": [[*groups[0][:4], 99], groups[1]]}, "fit together"), ({"scale": -1.0}, "positive scale"),
        ({"groups": [[groups[0][0], 3, 9, 5, groups[0][4]], groups[1]]}, "before their targets"),
        ({"magnitude_q": 31}, "Q8 to Q30"), ({"scale": math.nan}, "positive scale"),
    ):  # fmt: skip
        header = good | change
        path.write_text(json.dumps(header | {"sha256": _digest(header, files)}))
        if match is None:
            load_exported(tmp_path)
            continue
        with pytest.raises(CheckpointError, match=match):
            load_exported(tmp_path)


def test_whatever_byte_is_changed_and_wherever_a_file_is_cut_it_is_refused(tmp_path: Path) -> None:
    """The changed bytes are all there are, of all three files."""
    tiny = {"graph": {"widths": (2, 2, 2)}, "model": {"dim": 1}, "tables": {"phase_bins": 2, "mag_bins": 2}}
    model = Model.build(Config.model_validate(tiny), seed=1)
    export_integers(model, tmp_path)
    tried = 0
    for path in sorted(tmp_path.iterdir()):
        content = path.read_bytes()
        for at in range(len(content)):
            flipped = bytearray(content)
            flipped[at] ^= 1 << at % 8
            for damaged in (bytes(flipped), content[:at]):
                path.write_bytes(damaged)
                with pytest.raises(CheckpointError):
                    load_exported(tmp_path)
                tried += 1
        path.write_bytes(content)
    assert tried > 1000
    assert (load_exported(tmp_path).phase == compacted(integers_of(model)).phase).all()


def test_networks_whose_parts_do_not_fit_are_refused(network: IntegerNetwork) -> None:
    with pytest.raises(CheckpointError, match="phase indices"):
        replace(network, phase=network.phase + 1)
    *others, last = network.sources
    for change, match in (
        ({"sources": (*others, (len(others),))}, "before their targets"),
        ({"sources": (*others, last[::-1])}, "sources that rise"),
        ({"sources": (*others, (last[0], *last))}, "sources that rise"),
        ({"mag": network.mag[:, :1]}, "phasors a node"),
        ({"phase": network.phase[:, :0], "mag": network.mag[:, :0]}, "phasors a node"),
        ({"sin": network.sin[1:]}, "sines as cosines"), ({"cos": network.cos * 2}, "none beyond"),
        ({"codes": network.codes << 31}, "codes up to"), ({"codes": network.codes[:, 1:]}, "as long as the read-out"),
        ({"scale": 0.0}, "positive scale"), ({"magnitude_q": 7}, "Q8 to Q30"), ({"outputs": ()}, "output nodes"),
    ):  # fmt: skip
        unchecked = object.__new__(IntegerNetwork)  # as where shapes in annotations are not checked
        vars(unchecked).update(vars(network) | change)
        with pytest.raises(CheckpointError, match=match):
            unchecked.__post_init__()


def test_an_export_is_read_and_evaluated_without_torch(tmp_path: Path) -> None:
    network = integers_of(_small())
    export_integers(network, tmp_path)
    x = np.random.default_rng(1).random((5, 5))
    np.save(tmp_path / "x.npy", x)
    # The two modules are loaded by themselves: the package's own __init__ may import torch for other things.
    code = f"""
import importlib.util, sys, types
sys.modules["torch"] = None
source = {str(Path(sys.modules["neurograph.export"].__file__ or "").parent)!r}
package = types.ModuleType("neurograph"); package.__path__ = [source]; sys.modules["neurograph"] = package
import numpy as np
from neurograph.export import load_exported
print(load_exported({str(tmp_path)!r}).predict(np.load({str(tmp_path / "x.npy")!r})).tolist())
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(out) == network.predict(x).tolist()


# --- C --------------------------------------------------------------------------------------------------------------

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler (cc, gcc, clang) on PATH")
FLAGS = ["-std=c99", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]


def _scores_in_c(network: IntegerNetwork, x: np.ndarray, folder: Path) -> np.ndarray:
    export_c_header(network, folder / "network.h", name="net")
    (folder / "net.c").write_text(
        '#include "network.h"\n'
        "void scores(const uint16_t *x, int64_t *s) { static net_workspace z; net_scores(&z, x, s); }\n"
        "uint16_t level(double x) { return net_level(x); }\n"
    )
    command = [str(COMPILER), *FLAGS, "-shared", "-fPIC", "net.c", "-o", "net.so"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    library = ctypes.CDLL(str(folder / "net.so"))
    library.level.argtypes, library.level.restype = [ctypes.c_double], ctypes.c_uint16
    levels = network.input_levels(x).astype(np.uint16)
    assert [library.level(value) for value in x[0]] == levels[0].tolist()
    assert [library.level(value) for value in (-1.0, 2.0, math.nan)] == [0, network.mag_bins - 1, 0]
    found = np.zeros((len(x), len(network.codes)), dtype=np.int64)
    for row, level in zip(found, levels, strict=True):
        library.scores(level.ctypes.data_as(ctypes.c_void_p), row.ctypes.data_as(ctypes.c_void_p))
    return found


@needs_compiler
def test_c_gives_the_scores_of_python_to_the_last_bit_on_all_test_digits(
    network: IntegerNetwork, digits: Dataset, tmp_path: Path
) -> None:
    x = digits.test_x.numpy().astype(np.float64)
    scores = network.scores(x)
    assert (_scores_in_c(network, x, tmp_path) == scores).all()
    assert len(np.unique(scores.argmax(1))) == 10


@needs_compiler
def test_the_self_check_passes_for_all_test_digits_where_nodes_are_left_out(digits: Dataset, tmp_path: Path) -> None:
    whole = integers_of(Model.build(load_config("digits"), seed=0))
    said = export_c_header(whole, tmp_path / "net.h", samples=digits.test_x.numpy())
    command = [str(COMPILER), *FLAGS, "-DNEUROGRAPH_SELF_CHECK", "-x", "c", "net.h", "-o", "check"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    done = subprocess.run([str(tmp_path / "check")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "360 of 360 samples have the class that Python found\n")
    assert len(np.unique(whole.predict(digits.test_x.numpy()))) > 3
    text = (tmp_path / "net.h").read_text()
    assert "#define NEUROGRAPH_NODES 490\n" in text
    # What the compiler makes of the constants, all but those of the check.
    arrays = re.findall(r"static const \w+ (neurograph_\w+)\[", text)
    total = " + ".join(f"sizeof {name}" for name in arrays if "_check_" not in name)
    (tmp_path / "size.c").write_text(
        f'#include <stdio.h>\n#include "net.h"\nint main(void) {{ printf("%d", (int)({total})); return 0; }}\n'
    )
    subprocess.run([str(COMPILER), "-std=c99", "size.c", "-o", "size"], cwd=tmp_path, check=True)
    assert int(subprocess.run([str(tmp_path / "size")], capture_output=True, check=True).stdout) == said
    assert len(arrays) == 15


@needs_compiler
@pytest.mark.parametrize("make", [_blocks, lambda: _small(tables={"phase_bins": 7, "mag_bins": 2})])
def test_c_evaluates_any_graph_and_grid(make: object, tmp_path: Path) -> None:
    network = integers_of(make())  # type: ignore[operator]
    x = np.random.default_rng(1).random((100, network.n_inputs))
    assert (_scores_in_c(network, x, tmp_path) == network.scores(x)).all()


@needs_compiler
def test_the_self_check_passes_and_can_fail(tmp_path: Path) -> None:
    network = integers_of(_small())
    x = np.random.default_rng(2).random((30, 5))
    export_c_header(network, tmp_path / "net.h", samples=x)
    build = [str(COMPILER), *FLAGS, "-DNEUROGRAPH_SELF_CHECK", "-x", "c", "net.h", "-o", "check"]

    def run() -> subprocess.CompletedProcess[str]:
        subprocess.run(build, cwd=tmp_path, check=True, capture_output=True)
        return subprocess.run([str(tmp_path / "check")], capture_output=True, text=True, check=False)

    done = run()
    assert (done.returncode, done.stdout) == (0, "30 of 30 samples have the class that Python found\n")
    text = (tmp_path / "net.h").read_text()
    first = int(network.predict(x)[0])
    wrong = text.replace("check_classes[30] = {\n    " + f"{first},", "check_classes[30] = {\n    " + f"{first + 1},")
    assert wrong != text
    (tmp_path / "net.h").write_text(wrong)
    done = run()
    assert (done.returncode, done.stdout[:8]) == (1, "29 of 30")


def test_names_that_are_none_in_c_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a name in C"):
        c_header(integers_of(_small()), name="9lives")
    with pytest.raises(DataError, match="a self-check has samples"):
        c_header(integers_of(_small()), samples=np.zeros((0, 5)))
    assert export_c_header(_small(), tmp_path / "deep/net.h") > 0
    assert "self_check" not in (tmp_path / "deep/net.h").read_text().lower().split("#endif")[-1]
