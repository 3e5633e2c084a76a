"""The names a user may rely on, and that importing the package costs nothing."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

import spd
from spd import errors

SURFACE: dict[str, str] = {
    "spd": "__version__",
    "spd.background": "Background Closing",
    "spd.checkpoint": "FORMAT_VERSION latest read_config_of restore save",
    "spd.cli": "app main",
    "spd.cli.machine": "bench profile",
    "spd.cli.options": "AsJson Device Overrides Perf Require Resume device_of perf_of seeds_of",
    "spd.cli.output": "draw_pictures print_files print_json progress results_console",
    "spd.cli.runs": "convert evaluate names plot run train_target",
    "spd.config": "",
    "spd.config.base": "Frozen",
    "spd.config.evals": (
        "CEandKLLosses CIHistograms CIMeanPerComponent CI_L0 ComponentActivationDensity DenseCI DirectionMatchConfig "
        "EvalConfig IdentityCI IdentityCIError PGDMultiBatchReconLoss PGDMultiBatchReconSubsetLoss PermutedCIPlots "
        "StochasticReconSubsetCEAndKL UVPlots"
    ),
    "spd.config.losses": (
        "CIMaskedReconLayerwiseLoss CIMaskedReconLoss CIMaskedReconSubsetLoss FaithfulnessLoss "
        "ImportanceMinimalityLoss LossConfig PGDReconLayerwiseLoss PGDReconLoss PGDReconSubsetLoss "
        "PersistentPGDReconLoss RoutingConfig StaticProbability StochasticHiddenActsReconLoss "
        "StochasticReconLayerwiseLoss StochasticReconLoss StochasticReconSubsetLoss UniformKSubset UnmaskedReconLoss"
    ),
    "spd.config.models": (
        "CiConfig GlobalSharedMLPConfig GlobalTransformerConfig MLPConfig ModulePattern SharedMLPConfig VectorMLPConfig"
    ),
    "spd.config.perf": "PRESETS PerfConfig PgdSchedule",
    "spd.config.run": "Config read_config write_config",
    "spd.config.schedules": "LrSchedule learning_rate",
    "spd.config.tasks": "IHTask LMTask ResidMLPTask TMSTask TaskConfig TextTask",
    "spd.convert": "Converted convert_file convert_original",
    "spd.data": (
        "BatchStream FeatureCount SparseFeatures batches create_data_loader extract_batch_data loop_data_loader "
        "mixed_seed to_device"
    ),
    "spd.distributed": "Distributed Shareable gathered gathered_state shard share whole",
    "spd.distributed.ranks": "Distributed",
    "spd.distributed.replicas": "Shareable check_can_be_shared share",
    "spd.distributed.shards": "gathered gathered_state shard whole",
    "spd.drawing": "DrawPlan DrawnSampler PlannedCall RecordingSampler",
    "spd.errors": (
        "CheckpointError ConfigError DataError DivergenceError MissingExtraError RankError SPDError SamplingError "
        "TargetError"
    ),
    "spd.eval": "Evaluation SLOW evaluate measures read_evaluation write_evaluation",
    "spd.experiments": "",
    "spd.experiments.ablation": "AblationRow ablate single_switches",
    "spd.experiments.decompose": "OpenedRun SeedRow decompose decompose_seeds evaluate_again open_run",
    "spd.experiments.fitting": "fit round_to_half",
    "spd.experiments.ih": "",
    "spd.experiments.ih.model": "InductionBatches InductionTransformer induction_label sinusoids",
    "spd.experiments.ih.train_ih": "IHTrainConfig evaluate_ih ih_figures train_ih",
    "spd.experiments.lm": "",
    "spd.experiments.lm.lm_decomposition": "build_lm_task load_hf_model",
    "spd.experiments.lm.model": "SimpleLM rotated",
    "spd.experiments.lm.text": "ALPHABET Split TextBatches VOCAB_SIZE decoded encoded python_text",
    "spd.experiments.lm.train_text": (
        "TextTrainConfig bits_per_character next_token_loss text_figures train_text unigram_bits"
    ),
    "spd.experiments.registry": "load_config names overridden",
    "spd.experiments.resid_mlp": "",
    "spd.experiments.resid_mlp.model": "MLP ResidMLP random_directions",
    "spd.experiments.resid_mlp.train_resid_mlp": "ResidMLPTrainConfig folded_output resid_mlp_loss train_resid_mlp",
    "spd.experiments.targets": (
        "FORMAT_VERSION Progress TargetDescription TrainedTarget describe_target load_target measure_target "
        "save_target target_names train_target"
    ),
    "spd.experiments.task": "Task per_rank_batch_sizes",
    "spd.experiments.tasks": "build_task",
    "spd.experiments.tms": "",
    "spd.experiments.tms.model": "TMSModel",
    "spd.experiments.tms.train_tms": "TMSTrainConfig tms_loss train_tms",
    "spd.experiments.verdict": "Check checks_of",
    "spd.files": "write_whole",
    "spd.kernels": "",
    "spd.kernels.ci_mlp": "CiKernel scalar_mlp vector_mlp",
    "spd.kernels.ci_mlp_triton": "scalar_mlp_triton",
    "spd.kernels.folded": "folded_output take_rows",
    "spd.kernels.importances": "leaky_hard_pair power",
    "spd.losses": "LossContext compute_losses deltas_for router_of scheduled_steps sources_of total_loss",
    "spd.metrics": (
        "ci_masked_recon_layerwise_loss ci_masked_recon_loss ci_masked_recon_subset_loss faithfulness_loss "
        "importance_minimality_loss persistent_pgd_recon_loss pgd_recon_layerwise_loss pgd_recon_loss "
        "pgd_recon_subset_loss stochastic_hidden_acts_recon_loss stochastic_recon_layerwise_loss "
        "stochastic_recon_loss stochastic_recon_subset_loss unmasked_recon_loss"
    ),
    "spd.metrics.alive": "AlivenessTracker",
    "spd.metrics.ce_and_kl": "CEAndKL MASK_KINDS SubsetCEAndKL mask_infos_by_kind next_token_ce",
    "spd.metrics.ci_tables": (
        "ActivationDensity ActiveComponents G_EDGES Histograms L0 MeanPerComponent Z_EDGES groups_of histogram"
    ),
    "spd.metrics.faithfulness": "faithfulness_loss faithfulness_sum",
    "spd.metrics.ground_truth": (
        "DirectionMatch dense_ci_error direction_match direction_scores identity_ci_error identity_order"
    ),
    "spd.metrics.hidden_acts": "stochastic_hidden_acts_recon_loss",
    "spd.metrics.importance_minimality": "annealed_p importance_minimality_loss",
    "spd.metrics.measure": "Found Measure SINGLE_FEATURE Seen Subject mean_of sites_matching",
    "spd.metrics.output_loss": "OutputLossType SumAndCount added divergence output_loss",
    "spd.metrics.pgd_multibatch": "MultiBatchPGD multibatch_pgd_sum",
    "spd.metrics.pgd_recon": "persistent_pgd_recon_loss pgd_recon_layerwise_loss pgd_recon_loss pgd_recon_subset_loss",
    "spd.metrics.pgd_utils": (
        "Attack MaskScope PGDInit PersistentSources ascend initial_sources mask_infos_of persistent_shape pgd_sum"
    ),
    "spd.metrics.recon": (
        "ci_masked_recon_layerwise_loss ci_masked_recon_loss ci_masked_recon_subset_loss layer_by_layer "
        "stochastic_recon_layerwise_loss stochastic_recon_loss stochastic_recon_subset_loss unmasked_recon_loss"
    ),
    "spd.metrics.single_features": "CIErrors ComponentMatrices Directions PermutedImportances component_order",
    "spd.metrics.target_run": "TargetRun",
    "spd.models": "",
    "spd.models.building": "GLOBAL build_ci_fns build_sites",
    "spd.models.component_model": "CIOutputs ComponentModel OutputWithCache",
    "spd.models.components": (
        "Components EmbeddingComponents Identity LinearComponents MLPCiFn TiedComponents VectorMLPCiFn "
        "VectorSharedMLPCiFn"
    ),
    "spd.models.global_ci": "GlobalSharedMLPCiFn GlobalSharedTransformerCiFn",
    "spd.models.identity_insertion": "PRE_IDENTITY input_width insert_identities",
    "spd.models.layers": "ParallelLinear SharedLinear gains widths",
    "spd.models.masks": (
        "ComponentsMaskInfo Deltas FOLDED Interpolated Mask make_mask_infos mask_of stochastic_mask_infos whole_mask"
    ),
    "spd.models.prefix": "Recorder Replayer Stretches versions_of",
    "spd.models.sigmoids": (
        "SIGMOIDS SigmoidPair SigmoidType hard leaky_hard lower_leaky_hard lower_leaky_hard_published sigmoid_pair "
        "swish_hard upper_leaky_hard"
    ),
    "spd.models.sites": "BACKENDS Backend CacheType Execution Known KnownSites Site build_backend",
    "spd.perf": "",
    "spd.perf.compiling": "BACKEND CompileMode compile_methods compile_modules compiled prepare",
    "spd.perf.counting": "OperationCounter",
    "spd.perf.cuda_graph": "RecordedStep refuse_what_cannot_be_recorded",
    "spd.perf.memory": "MemoryPolicy PeakMemory give_back_memory measure_peak",
    "spd.perf.precision": "Amp Precision",
    "spd.plots": (
        "draw plot_activation_density plot_components plot_histograms plot_importances plot_mean_importances "
        "plot_training"
    ),
    "spd.profiling": "Profile ProfileMode profile",
    "spd.reference": "",
    "spd.reference.oracle": (
        "divergence faithfulness g_of g_slope importance_minimality penalised_of scalar_network site_output "
        "squared_error"
    ),
    "spd.reference.original": (
        "AsyncSaver CachedWeightsModel HookStateModel collect_after collect_before compile_ci_fns fused_forward "
        "importances_by_name importances_in_order log_batched log_each save_at_once train_freely weight_deltas_anew"
    ),
    "spd.routing": "Router Routing route_at_random route_everywhere route_uniform_k",
    "spd.run_log": "METRICS RunLog read_log",
    "spd.run_spd": "CHECKPOINTS CONFIG RunResult evaluate_run optimize start_trainer",
    "spd.sampling": "InjectedSampler Sampling SourceSampler rank_seed",
    "spd.step_losses": "StepLosses",
    "spd.tensor_files": "TensorFile digest",
    "spd.texts": "cut_into_rows documents_of import_lm load_tokenizer open_texts read_rows",
    "spd.tokens": "StreamedTokens TokenStream text_stream",
    "spd.traced": "SEARCHING traced_loss",
    "spd.training": "StepResult Trainer build_model faithfulness_warmup",
    "spd.weights": "WEIGHTS_FORMAT load_components save_components",
}
"""Public names of each module."""


def test_every_module_is_pinned() -> None:
    found = {info.name for info in pkgutil.walk_packages(spd.__path__, "spd.")} | {"spd"}
    found -= {"spd.__main__"}  # runs the command where it is imported
    assert found == set(SURFACE)


@pytest.mark.parametrize("name", sorted(SURFACE))
def test_public_names(name: str) -> None:
    module = importlib.import_module(name)
    assert set(getattr(module, "__all__", [])) == set(SURFACE[name].split())
    assert all(hasattr(module, public) for public in SURFACE[name].split())


def test_importing_the_package_imports_no_framework() -> None:
    code = "import sys, spd; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_error_can_be_caught_by_the_root() -> None:
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), errors.SPDError)
