"""The names a user may rely on, and that importing the package costs nothing."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import boolean_nca_cc
from boolean_nca_cc import errors

SURFACE = {
    "boolean_nca_cc": {"__version__"},
    "boolean_nca_cc.analysis": {
        "Criticality",
        "HammingDistance",
        "LayerLiveness",
        "WorstDamage",
        "accuracy_by_output",
        "criticality",
        "hamming_distance",
        "liveness_by_layer",
        "worst_damage",
    },
    "boolean_nca_cc.automata": set(),
    "boolean_nca_cc.automata.cells": {"cell_circuit", "cell_spec"},
    "boolean_nca_cc.automata.gate_count": {"formula_lengths", "table_gates", "two_input_gates"},
    "boolean_nca_cc.automata.grid": {
        "NEIGHBOURS",
        "Boundary",
        "check_grid",
        "neighbourhoods",
        "run_hard",
        "run_packed",
        "step_cells",
    },
    "boolean_nca_cc.automata.growth": {
        "ASYNCHRONOUS",
        "GrowthState",
        "Repair",
        "evaluate_growth",
        "start_growth",
        "train_growth",
    },
    "boolean_nca_cc.automata.life": {
        "PUBLISHED_GATES",
        "SoupComparison",
        "compare_on_soups",
        "life_circuit",
        "life_generation",
        "life_task",
    },
    "boolean_nca_cc.automata.patterns": {
        "PICTURES",
        "checkerboard",
        "damage",
        "draw_pattern",
        "place_code",
        "place_code_length",
        "random_state",
        "seed_state",
    },
    "boolean_nca_cc.automata.settings": {"GrowSettings", "LifeSettings"},
    "boolean_nca_cc.automata.simplification": {"node_values", "simplify"},
    "boolean_nca_cc.circuits": set(),
    "boolean_nca_cc.circuits.fit": {"FitResult", "fit", "fit_many"},
    "boolean_nca_cc.circuits.font": {"GLYPH_HEIGHT", "GLYPH_WIDTH", "render"},
    "boolean_nca_cc.circuits.kernels": {
        "evaluate_packed",
        "fold_layer",
        "forward",
        "gather",
        "minterm_layer",
        "pack_cases",
        "tables",
        "unpack_cases",
        "wrong_bits",
    },
    "boolean_nca_cc.circuits.losses": {
        "LOSSES",
        "binary_cross_entropy",
        "fourth_power",
        "get_loss",
        "sparsity_penalty",
    },
    "boolean_nca_cc.circuits.model": {
        "Circuit",
        "gen_circuit",
        "gen_wires",
        "generate_layer_sizes",
        "make_nops",
        "run_circuit",
        "run_layer",
    },
    "boolean_nca_cc.circuits.spec": {"CircuitSpec"},
    "boolean_nca_cc.circuits.tasks": {"TaskData", "get_task", "split", "task_names"},
    "boolean_nca_cc.circuits.train": {
        "StepMetrics",
        "TrainState",
        "compute_accuracy",
        "loss_f_bce",
        "loss_f_l4",
        "train_step",
        "unpack",
        "update_params",
    },
    "boolean_nca_cc.circuits.wiring": {
        "Topology",
        "chain_topology",
        "check_wires",
        "local_wires",
        "mutate_wires",
        "tree_topology",
    },
    "boolean_nca_cc.config": {"FitConfig", "OptimizerConfig", "StatePolicy"},
    "boolean_nca_cc.errors": {
        "AutomatonError",
        "BooleanNCAError",
        "CheckpointError",
        "ConfigError",
        "ExportError",
        "LossError",
        "MaskError",
        "MissingExtraError",
        "PatternError",
        "SpecError",
        "TaskError",
        "WiringError",
    },
    "boolean_nca_cc.experiments.damage": {"amounts", "check_damage", "damage_patterns"},
    "boolean_nca_cc.experiments.knockout_study": {
        "STUDY",
        "KnockoutOutcome",
        "RepairRule",
        "load_study",
        "run_knockout_study",
    },
    "boolean_nca_cc.experiments.meta_run": {
        "RULE",
        "MetaOutcome",
        "MetaSettings",
        "TrainedRule",
        "load_rule",
        "run_meta_training",
    },
    "boolean_nca_cc.experiments.packed_throughput": {
        "LARGE",
        "PackedThroughput",
        "SpeedRow",
        "packed_throughput",
        "random_workload",
    },
    "boolean_nca_cc.export": {
        "FORMATS",
        "Gate",
        "Netlist",
        "check_decided",
        "files_of",
        "from_json",
        "netlist_of",
        "to_blif",
        "to_c",
        "to_dot",
        "to_json",
        "to_svg",
        "to_test_bench",
        "to_verilog",
        "truth_table",
    },
    "boolean_nca_cc.meta.hosts": {"is_main_process", "join_hosts"},
    "boolean_nca_cc.meta.sharded_checkpoint": {"ShardedCheckpoint", "load_sharded", "save_sharded", "spans_processes"},
    "boolean_nca_cc.meta.spreading": {"POOL", "hold", "local_copy", "make_pool_mesh", "shardings_of", "spread"},
    "boolean_nca_cc.meta": set(),
    "boolean_nca_cc.meta.evaluation": {"Healing", "RuleEvaluation", "configured", "evaluate_rule", "heal"},
    "boolean_nca_cc.meta.pool": {"Pool", "fresh_pool", "put_back", "replace", "sample", "strike", "wire_diversity"},
    "boolean_nca_cc.meta.rollout": {
        "Rule",
        "Trajectory",
        "apply_rule",
        "columns_of",
        "hard_accuracies",
        "make_rule",
        "rollout",
    },
    "boolean_nca_cc.meta.settings": {"DamageConfig", "MetaConfig", "PoolConfig", "RuleConfig"},
    "boolean_nca_cc.meta.training": {
        "MetaRecord",
        "MetaState",
        "loss_step_of",
        "meta_epochs",
        "meta_optimizer",
        "seen_patterns",
        "start_training",
    },
    "boolean_nca_cc.models": set(),
    "boolean_nca_cc.models.attention": {"LogicAttention"},
    "boolean_nca_cc.models.gnn": {"LogicGNN"},
    "boolean_nca_cc.models.graph": {
        "NodeState",
        "joined",
        "place_codes",
        "sources_of",
        "split_tables",
        "start_state",
    },
    "boolean_nca_cc.models.parts": {"Increments", "Perceptron", "Reading"},
    "boolean_nca_cc.optim": {"make_optimizer", "preserve_dead"},
    "boolean_nca_cc.figures": {"BLUE", "GREEN", "GREY", "ORANGE", "new_figure", "write_figure"},
    "boolean_nca_cc.plots": {"damage_curve", "knockout_histogram", "learning_curves", "recovery_curves"},
    "boolean_nca_cc.plots_analysis": {"criticality_map", "hamming_bars", "liveness_bars", "worst_damage_curve"},
    "boolean_nca_cc.plots_automata": {"Frame", "contact_sheet", "draw_frame", "gif"},
    "boolean_nca_cc.plots_meta": {"repair_animation", "repair_curves", "rule_curves"},
    "boolean_nca_cc.sharding": {"CASES", "PATTERNS", "make_mesh", "replicate", "shard_cases", "shard_patterns"},
}


@pytest.mark.parametrize("name", SURFACE)
def test_public_names_are_pinned(name: str) -> None:
    module = importlib.import_module(name)
    exported = getattr(module, "__all__", [])
    assert set(exported) == SURFACE[name]
    assert all(hasattr(module, entry) for entry in exported)


def test_every_name_has_one_home() -> None:
    homes: dict[str, str] = {}
    for module, names in SURFACE.items():
        for name in names:
            assert name not in homes, f"{name} is public in {homes.get(name)} and in {module}"
            homes[name] = module


def test_the_error_tree() -> None:
    for name in errors.__all__:
        error = getattr(errors, name)
        assert issubclass(error, boolean_nca_cc.errors.BooleanNCAError)
        if name not in ("BooleanNCAError", "MissingExtraError"):
            assert issubclass(error, ValueError)
    assert issubclass(errors.MissingExtraError, ImportError)


def test_importing_the_package_imports_no_framework() -> None:
    script = "import sys, boolean_nca_cc; print(sorted({'jax', 'numpy', 'optax', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_module_outside_reference_imports_it() -> None:
    source = Path(boolean_nca_cc.__file__).parent
    for path in source.rglob("*.py"):
        if "reference" not in path.relative_to(source).parts:
            assert "boolean_nca_cc.reference" not in path.read_text(encoding="utf-8"), path
