"""The names a user may rely on, and that importing the package costs nothing."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

import neurograph
from neurograph import errors

SURFACE: dict[str, str] = {
    "neurograph": "__version__",
    "neurograph.adapters": "Adapter FixedProjection IntensityAdapter LinearAdapter indices_of",
    "neurograph.bit_codes": "BitReader fixed_bits packed rank_of rice_bits rice_parameter subset_of width_of",
    "neurograph.checkpoint": (
        "Checkpoint FORMAT_VERSION TrainerState check_same_settings load_checkpoint save_checkpoint"
    ),
    "neurograph.classifier": "NeuroGraphClassifier",
    "neurograph.cli": "app main",
    "neurograph.cli.machine": "bench claims tune",
    "neurograph.cli.networks": "diagnose export graph tables",
    "neurograph.cli.options": (
        "AsJson ConfigName DataName Device Folder Overrides Root Seed Threads device_of set_threads settings_of "
        "with_data"
    ),
    "neurograph.cli.output": "print_facts print_files print_frame print_json progress say write_frame write_json",
    "neurograph.cli.running": (
        "CHECKPOINT Opened check_fit draw evaluated figures_of fitted history_of history_rows load_data open_run "
        "start train_on"
    ),
    "neurograph.cli.runs": "evaluate plot train",
    "neurograph.cli.timing": "time_backends",
    "neurograph.config": (
        "Config DataConfig GraphConfig ModelConfig OptimizerConfig RadiationConfig TablesConfig TrainConfig "
        "load_config overridden read_config ready_configs write_config"
    ),
    "neurograph.core": "",
    "neurograph.core.engine": "Backend ForwardEngine Merge Radiating State",
    "neurograph.core.graph": (
        "COLUMNS ConnectivityReport Topology build_static_graph connectivity_report layered_graph"
    ),
    "neurograph.core.high_res_tables": (
        "DiscreteUpdate ENABLE_JIT Grid HighResolutionLookupTables Magnitude jit_compile_if_enabled jit_status "
        "signal_gradients signal_of"
    ),
    "neurograph.core.incremental": "IncrementalPass Work propagate_stepwise",
    "neurograph.core.jit": "ENABLE_JIT JitEntry MIN_ELEMENTS enable_jit jit_compile_if_enabled jit_status",
    "neurograph.core.modular_cell": "CellOutput ModularPhaseCell phase_similarity routing_strength",
    "neurograph.core.node_store": "Leaves NodeStore",
    "neurograph.core.phasors": "own_phasors phase_index superpose",
    "neurograph.core.radiation": (
        "Radiation RadiationCache candidate_mask clear_radiation_cache get_cache_stats get_radiation_neighbors "
        "optimize_cache_settings print_cache_performance radiate"
    ),
    "neurograph.core.radiation_cache": "KnownGraph LEVELS RadiationCache StaticLists digest listeners",
    "neurograph.core.resonance": "Best NONE UNIT best cosine_units float_bound phasor_rows unit_scores",
    "neurograph.core.spatial": (
        "ExhaustiveIndex FaissIndex METHODS Method Nearest SpatialIndex TreeIndex build_index nearest recall_at_k"
    ),
    "neurograph.core.spreading": "Spreading deliver resonance weights",
    "neurograph.data": "Dataset check_samples dataset_names load_dataset shift_pictures stratified_split",
    "neurograph.diagnostics": "Alert Diagnosis Flow Limits alerts bottlenecks diagnose flow_class",
    "neurograph.drawing": "DPI log_ticks name_ticks new_figure save_figure whole_ticks",
    "neurograph.effectiveness": "Effectiveness UpdateMonitor circular_change",
    "neurograph.encodings": (
        "ClassCodes coherence hadamard_codes hadamard_matrix orthogonal_codes random_codes structured_codes welch_bound"
    ),
    "neurograph.errors": (
        "CheckpointError ConfigError DataError DivergenceError GraphError MissingExtraError NeuroGraphError TableError"
    ),
    "neurograph.evaluation": "Evaluation confusion_matrix evaluate",
    "neurograph.experiments": "",
    "neurograph.experiments.ablation": "AblationResult FACTORS VARIANTS Variant choose run_ablation",
    "neurograph.experiments.baselines": "choose run_baselines summary",
    "neurograph.experiments.digits": "BARS Check DigitsResult run_digits",
    "neurograph.experiments.float_twin": "FloatTwin",
    "neurograph.experiments.results": "Rows",
    "neurograph.experiments.rivals": "Classifier Hyperdimensional RIVALS Rival",
    "neurograph.experiments.routing": "RoutingResult run_routing tune_routing",
    "neurograph.experiments.routing_networks": (
        "Facts MemorySettings RoutingTask StaticSettings bundled_network draw_facts memory_graph memory_network "
        "static_network"
    ),
    "neurograph.experiments.splits": (
        "CHOSEN FRESH_SEEDS Split TRIED TUNING_SEEDS as_arrays digits_split held_out held_out_accuracy"
    ),
    "neurograph.experiments.tuning": "METHODS TunerComparison compare_tuners",
    "neurograph.export": "ExportSizes ExportedModel FORMAT compacted export_integers integers_of load_exported",
    "neurograph.export_c": "c_header export_c_header",
    "neurograph.files": "write_whole",
    "neurograph.genetic_search": "FitnessCache Genome Method Objective SearchResult Trial search",
    "neurograph.glyphs": "synthetic_glyphs",
    "neurograph.idx": "IdxFolder load_idx_folder read_idx write_idx",
    "neurograph.integer_network": "IntegerNetwork Level ONE gain_of halfway_points quantised thresholds",
    "neurograph.json_lines": "append_line read_lines",
    "neurograph.losses": (
        "AdaptiveTemperature NORM_FLOOR check_labels classification_loss cosine_logits mean_cosine_logits "
        "output_gradient readout_gradient soft_targets top_k_accuracy"
    ),
    "neurograph.model": "Model",
    "neurograph.optim": "DiscreteAdam DiscreteOptimizer DiscreteSGD",
    "neurograph.plots": "plot_codes plot_confusion plot_graph plot_indices plot_radiation plot_training",
    "neurograph.reference": "",
    "neurograph.reference.engine": "ReferenceEngine ReferenceState",
    "neurograph.reference.oracle": "magnitude_of modular_pass on_grid phasor_of superposed_pass",
    "neurograph.reference.oracle_credit": "align_by_node credit_by_node",
    "neurograph.reference.original": (
        "Audit OPTIMIZATIONS OriginalCredit OriginalEngine OriginalSettings OriginalTrainContext RadiationCaches"
    ),
    "neurograph.reference.original.accumulator": "OriginalAccumulator",
    "neurograph.reference.original.activation": "OriginalActivationTable",
    "neurograph.reference.original.credit": "OriginalCredit",
    "neurograph.reference.original.engine": "ForwardCounts OriginalEngine cell",
    "neurograph.reference.original.graph": "OriginalNodeStore build_frame row_connections",
    "neurograph.reference.original.inputs": "OriginalAdapter class_codes",
    "neurograph.reference.original.radiation": (
        "ALL_LEVELS Audit CHUNK Level RadiationCaches exact_neighbors get_radiation_neighbors"
    ),
    "neurograph.reference.original.settings": "OPTIMIZATIONS Optimization OriginalSettings check_optimizations",
    "neurograph.reference.original.tables": (
        "JIT_SOURCE Jit OriginalTables compiled_lookups jit_compile_if_enabled make_tables"
    ),
    "neurograph.reference.original.training": "OriginalTrainContext",
    "neurograph.train": "",
    "neurograph.train.credit": "Credit Gradients Group LocalCredit credit_named exact_credit local_groups severed",
    "neurograph.train.gradient_accumulator": "Accumulated AdaptiveAccumulator GradientAccumulator Scaling",
    "neurograph.train.modular_train_context": "ModularTrainContext NodeSignals",
    "neurograph.train.trainer": "EpochRow Trainer",
    "neurograph.tuner": "GENES ShortTrainings TuningResult configured integers_in tune",
}
"""Public names of each module."""


def test_every_module_is_pinned() -> None:
    found = {info.name for info in pkgutil.walk_packages(neurograph.__path__, "neurograph.")} | {"neurograph"}
    found -= {"neurograph.__main__"}  # runs the command where it is imported
    assert found == set(SURFACE)


@pytest.mark.parametrize("name", sorted(SURFACE))
def test_public_names(name: str) -> None:
    module = importlib.import_module(name)
    assert set(getattr(module, "__all__", [])) == set(SURFACE[name].split())
    assert all(hasattr(module, public) for public in SURFACE[name].split())


def test_importing_the_package_imports_no_framework() -> None:
    code = "import sys, neurograph; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_error_can_be_caught_by_the_root() -> None:
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), errors.NeuroGraphError)
