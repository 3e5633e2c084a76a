"""The names a user may rely on, and that importing the package costs nothing."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import resu
from resu import errors

SURFACE: dict[str, set[str]] = {
    "resu": {"__version__"},
    "resu.baselines": {"AnyConfig", "METHODS", "Method", "MethodConfig", "MethodName", "build_method", "method_config"},
    "resu.baselines.acdc": {"ACDC", "ACDCConfig"},
    "resu.baselines.cycles": {"ResuConfig", "ResuCycles", "ResuPaperConfig"},
    "resu.baselines.gmp": {"GMP", "GMPConfig"},
    "resu.baselines.method": {"Clock", "Method", "MethodConfig", "Share", "set_masks", "sparse_start", "top_masks"},
    "resu.baselines.regrowth": {"RigL", "RigLConfig", "SET", "SETConfig", "Shadow", "ShadowConfig"},
    "resu.baselines.snfs": {"SNFS", "SNFSConfig", "share_out"},
    "resu.baselines.static": {"Dense", "DenseConfig", "Static", "StaticConfig"},
    "resu.baselines.topkast": {"TopKAST", "TopKASTConfig"},
    "resu.checkpoint": {
        "Checkpoint",
        "FORMAT_VERSION",
        "about",
        "load",
        "random_states",
        "restore",
        "save",
        "set_random_states",
    },
    "resu.cli": {"app", "main"},
    "resu.cli.__main__": set(),
    "resu.cli.files": {"export", "info", "prune"},
    "resu.cli.machine": {"accuracy", "bench", "memory", "throughput", "verify"},
    "resu.cli.options": {
        "AsJson",
        "Backend",
        "Eager",
        "Force",
        "Form",
        "Layout",
        "LearningRate",
        "Method",
        "Require",
        "Resume",
        "Seed",
        "Sparsity",
        "Spread",
        "Steps",
        "Task",
    },
    "resu.cli.output": {"by_column", "draw_pictures", "print_files", "print_json", "progress", "results_console"},
    "resu.cli.runs": {"demo", "train"},
    "resu.config": {"CycleConfig", "PRESETS", "Preset", "SelectionConfig"},
    "resu.core": set(),
    "resu.core.amnesty": {
        "Amnesty",
        "AmnestyResult",
        "ScoreType",
        "compute_mask_churn",
        "compute_resurrection_rate",
        "places",
    },
    "resu.core.bits": {"pack_rows", "popcount", "unpack_rows", "words_per_row"},
    "resu.core.effective": {"BlendFunction", "EffectiveWeightFunction", "effective_weight", "effective_weight_dense"},
    "resu.core.mask": {"MaskStats", "SparseMask", "check_sparsity", "chunk_rows", "row_shape"},
    "resu.core.noise": {"NOISES", "Noise", "hash_rows", "layer_key", "normal", "uniform"},
    "resu.core.phases": {"Phase", "SparseParameter", "local", "release", "sparse_state", "sparsify"},
    "resu.core.ranks": {"row_offset", "sum_over_ranks"},
    "resu.core.reports": {"CommitReport", "LayerReport", "SparsityOptimizer"},
    "resu.core.resurrection": {"GatheredTheta", "Init", "ResurrectionEmbedding", "StorageMode", "active_std"},
    "resu.core.scores": {
        "MomentSource",
        "SCORES",
        "activation",
        "column_rows",
        "consistency",
        "gradient",
        "magnitude",
        "momentum",
        "movement",
        "named_score",
        "tensor_rows",
    },
    "resu.core.select": {"Candidate", "Score", "Selection", "kth_largest", "plan_top", "select_top"},
    "resu.core.selective": {
        "RESUSelective",
        "SelectionResult",
        "compute_consistency",
        "select_coordinates",
        "update_ema",
        "update_ema_and_consistency",
    },
    "resu.core.signs": {"SignBitMask"},
    "resu.core.starting": {"random_score", "start_theta"},
    "resu.core.targets": {"check_optimizer", "choose_parameters"},
    "resu.distributed": {
        "any_rank",
        "broadcast_masks",
        "consolidate_masks",
        "local_mask",
        "mask_checksum",
        "reduce_over_shards",
        "shard_group",
        "shard_rows",
        "verify_masks",
    },
    "resu.distribution": {
        "Distribution",
        "active_counts",
        "global_counts",
        "layer_densities",
        "proportional_counts",
        "total_active",
    },
    "resu.errors": {
        "CalibrationError",
        "CheckpointError",
        "ConfigError",
        "KernelError",
        "MaskError",
        "MissingExtraError",
        "OptimizerError",
        "PhaseError",
        "ResuError",
    },
    "resu.experiments": set(),
    "resu.experiments.accuracy": {
        "AccuracyTable",
        "Progress",
        "SETTINGS",
        "best_rate",
        "read_accuracy",
        "run_accuracy",
    },
    "resu.experiments.data": {"CONTEXT", "Part", "Stage", "TaskData", "TaskName", "load_task"},
    "resu.experiments.demo": {"DemoCycle", "DemoLayer", "DemoResult", "RESULT", "run_demo"},
    "resu.experiments.memory": {
        "LiveStorages",
        "MIB",
        "Part",
        "allocated_peak",
        "live_bytes",
        "parts_table",
        "published_tally",
    },
    "resu.experiments.models": {"CharacterModel", "build_model", "mlp", "score"},
    "resu.experiments.phase_memory": {"PHASES", "PhaseBytes", "STEPPED", "dense_bytes", "phase_bytes"},
    "resu.experiments.self_check": {"Check", "back_ends", "self_check"},
    "resu.experiments.settings": {"AccuracySettings", "TaskSettings"},
    "resu.experiments.step_time": {"StepTime", "step_times"},
    "resu.experiments.table": {"AccuracyRow", "AccuracyTable", "METRICS", "mean_and_error"},
    "resu.experiments.training_run": {
        "CHECKPOINT",
        "MaskChange",
        "RESULT",
        "RunOutcome",
        "RunSettings",
        "WEIGHTS",
        "run_training",
    },
    "resu.experiments.trial": {"Trial", "TrialSettings", "cosine"},
    "resu.experiments.weight_files": {
        "ExportForm",
        "WeightFileContent",
        "WeightRow",
        "export_file",
        "prune_file",
        "read_file",
        "weight_rows",
    },
    "resu.export": set(),
    "resu.export.csr": {
        "CSRLinear",
        "DENSE_BELOW",
        "csr_linear",
        "csr_model",
        "effective_linears",
        "effective_weight",
        "to_csr",
    },
    "resu.export.semi_structured": {"semi_structured_model", "to_semi_structured"},
    "resu.export.weights": {
        "FORMAT_VERSION",
        "MASK_SUFFIX",
        "WeightFile",
        "load_weights",
        "read_weights",
        "save_weights",
    },
    "resu.integrations": set(),
    "resu.integrations.driver": {"CycleDriver"},
    "resu.integrations.huggingface": {"RESUCallback"},
    "resu.integrations.lightning": {"RESUCallback"},
    "resu.kernels": set(),
    "resu.kernels.backend": {
        "Backend",
        "check_operands",
        "has_compiler",
        "has_triton",
        "interpreted",
        "on_device",
        "resolve",
    },
    "resu.kernels.embedding": {
        "PhiInverseGatherFunction",
        "PhiScatterFunction",
        "phi_inverse_gather",
        "phi_scatter",
        "phi_scatter_grad",
        "resu_update_indexed",
        "resu_update_with_momentum",
    },
    "resu.kernels.masked_adam": {"AdamStep", "block_offsets", "masked_adamw", "masked_adamw_compact", "masked_sgd"},
    "resu.mask_changes": {"Flags", "change_masks", "drop_states", "either", "rows_of"},
    "resu.modules": set(),
    "resu.modules.carrying": {"Carried", "CarryingLinear", "DEFAULT_LR", "Stepping"},
    "resu.modules.inplace": {"change_mask", "check_optimizer", "enter", "rehang"},
    "resu.modules.linear": {"RESULinear", "RESUMode", "convert_to_resu", "get_resu_modules"},
    "resu.modules.replacing": {"replace_linears"},
    "resu.modules.saved": {"fit_theta", "saved_mask"},
    "resu.optim": set(),
    "resu.optim.clip": {"HoldsMasks", "clip_grad_norm_"},
    "resu.optim.closures": {"with_known_loss"},
    "resu.optim.masked": {"Layout", "MaskedAdamW", "MaskedSGD"},
    "resu.optim.stock": {"Attachment", "attach"},
    "resu.plots": {"accuracy_against_sparsity", "mask_curves", "score_curve", "what_came_back"},
    "resu.pruning": set(),
    "resu.pruning.dsnot": {"dsnot", "dsnot_mask", "mean_error"},
    "resu.pruning.magnitude": {"Granularity", "magnitude_mask", "top_per_row"},
    "resu.pruning.nm": {"NMReport", "commit_nm", "fill_nm", "nm_mask", "partial_nm_mask", "verify_nm"},
    "resu.pruning.wanda": {"Calibrated", "ColumnStatistics", "Forward", "calibrate", "wanda", "wanda_mask"},
    "resu.quant": set(),
    "resu.quant.packed": {"PackedLinear", "Scope", "pack_codes", "packed_bytes", "unpack_codes"},
    "resu.schedules": {
        "cubic_over_steps",
        "cycle_sparsities",
        "densify_linear",
        "densify_stepped",
        "listed",
        "sparsity_at",
    },
    "resu.sparsifier": {"ScoreName", "Sparsifier"},
    "resu.training": set(),
    "resu.training.clock": {"RESUCycle", "heed_masks", "stepped"},
    "resu.training.cycle": {
        "CyclePhase",
        "CycleStats",
        "EvalFn",
        "Logger",
        "Pruner",
        "RESUCycle",
        "RESUTrainer",
        "Stabilizer",
        "TrainFn",
    },
    "resu.training.densification": {"DensificationPlan", "Pause", "PauseCallback", "PauseReason"},
    "resu.training.position": {"LoaderPosition"},
    "resu.training.prune": {"Calibration", "Pruner", "Stabilizer", "prune_to"},
    "resu.training.stats": {"CyclePhase", "CycleStats"},
    "resu.training.stepping": {"ThetaStepping"},
}

# The note names the cycle's path, and a folder's own names are those of its interface: these stand in two modules.
SECOND_HOMES = {
    "resu.baselines": {"Method", "MethodConfig"},
    "resu.experiments.accuracy": {"AccuracyTable"},
    "resu.training.cycle": {"CyclePhase", "CycleStats", "Pruner", "RESUCycle", "Stabilizer"},
}


@pytest.mark.parametrize("name", SURFACE)
def test_public_names_are_pinned(name: str) -> None:
    module = importlib.import_module(name)
    exported = getattr(module, "__all__", [])
    assert set(exported) == SURFACE[name]
    assert all(hasattr(module, entry) for entry in exported)


def test_every_module_is_pinned() -> None:
    source = Path(resu.__file__).parent
    modules = {
        ".".join(("resu", *path.relative_to(source).with_suffix("").parts)).removesuffix(".__init__")
        for path in source.rglob("*.py")
        if "reference" not in path.relative_to(source).parts and not path.name.startswith("triton_")
    }
    assert modules == set(SURFACE)


def test_every_thing_has_one_home() -> None:
    homes: dict[int, str] = {}
    for module, names in SURFACE.items():
        for name in names - SECOND_HOMES.get(module, set()):
            thing = getattr(importlib.import_module(module), name)
            if callable(thing):  # numbers and texts may be equal by chance
                key = id(thing)
                assert key not in homes, f"{name} is public in {homes.get(key)} and in {module}"
                homes[key] = module


def test_the_error_tree() -> None:
    kinds = {"PhaseError": RuntimeError, "KernelError": RuntimeError, "MissingExtraError": ImportError}
    for name in errors.__all__:
        error = getattr(errors, name)
        assert issubclass(error, errors.ResuError)
        if name != "ResuError":
            assert issubclass(error, kinds.get(name, ValueError))


def test_importing_the_package_imports_no_framework() -> None:
    script = (
        "import sys, resu\n"
        "print(sorted({'torch', 'numpy', 'triton', 'matplotlib', 'transformers', 'lightning'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_module_outside_reference_imports_it() -> None:
    source = Path(resu.__file__).parent
    for path in source.rglob("*.py"):
        if "reference" not in path.relative_to(source).parts:
            text = path.read_text(encoding="utf-8")
            assert "import resu.reference" not in text, path
            assert "from resu.reference" not in text, path
