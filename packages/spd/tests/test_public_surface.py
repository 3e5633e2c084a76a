"""The names a user may rely on, and that importing the package costs nothing."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

import spd
from spd import errors

SURFACE: dict[str, set[str]] = {
    "spd": set(),
    "spd.checkpoint": {
        "FORMAT_VERSION",
        "latest",
        "read_config_of",
        "restore",
        "save",
    },
    "spd.config": set(),
    "spd.config.base": {
        "Frozen",
    },
    "spd.config.evals": {
        "CEandKLLosses",
        "CIHistograms",
        "CIMeanPerComponent",
        "CI_L0",
        "ComponentActivationDensity",
        "DenseCI",
        "DirectionMatchConfig",
        "EvalConfig",
        "IdentityCI",
        "IdentityCIError",
        "PGDMultiBatchReconLoss",
        "PGDMultiBatchReconSubsetLoss",
        "PermutedCIPlots",
        "StochasticReconSubsetCEAndKL",
        "UVPlots",
    },
    "spd.config.losses": {
        "CIMaskedReconLayerwiseLoss",
        "CIMaskedReconLoss",
        "CIMaskedReconSubsetLoss",
        "FaithfulnessLoss",
        "ImportanceMinimalityLoss",
        "LossConfig",
        "PGDReconLayerwiseLoss",
        "PGDReconLoss",
        "PGDReconSubsetLoss",
        "PersistentPGDReconLoss",
        "RoutingConfig",
        "StaticProbability",
        "StochasticHiddenActsReconLoss",
        "StochasticReconLayerwiseLoss",
        "StochasticReconLoss",
        "StochasticReconSubsetLoss",
        "UniformKSubset",
        "UnmaskedReconLoss",
    },
    "spd.config.models": {
        "CiConfig",
        "GlobalSharedMLPConfig",
        "GlobalTransformerConfig",
        "MLPConfig",
        "ModulePattern",
        "SharedMLPConfig",
        "VectorMLPConfig",
    },
    "spd.config.perf": {
        "PRESETS",
        "PerfConfig",
        "PgdSchedule",
    },
    "spd.config.run": {
        "Config",
        "read_config",
        "write_config",
    },
    "spd.config.schedules": {
        "LrSchedule",
        "learning_rate",
    },
    "spd.config.tasks": {
        "IHTask",
        "LMTask",
        "ResidMLPTask",
        "TMSTask",
        "TaskConfig",
        "TextTask",
    },
    "spd.data": {
        "BatchStream",
        "FeatureCount",
        "SparseFeatures",
        "batches",
        "extract_batch_data",
        "mixed_seed",
        "to_device",
    },
    "spd.errors": {
        "CheckpointError",
        "ConfigError",
        "DataError",
        "DivergenceError",
        "MissingExtraError",
        "SPDError",
        "SamplingError",
        "TargetError",
    },
    "spd.experiments": set(),
    "spd.experiments.resid_mlp": set(),
    "spd.experiments.resid_mlp.model": {
        "ResidMLP",
    },
    "spd.experiments.tms": set(),
    "spd.experiments.tms.model": {
        "TMSModel",
    },
    "spd.experiments.tms.train_tms": {
        "TMSTrainConfig",
        "train_tms",
    },
    "spd.kernels": set(),
    "spd.kernels.ci_mlp": {
        "CiKernel",
        "scalar_mlp",
    },
    "spd.losses": {
        "LossContext",
        "compute_losses",
        "deltas_for",
        "router_of",
        "sources_of",
        "total_loss",
    },
    "spd.metrics": {
        "ci_masked_recon_layerwise_loss",
        "ci_masked_recon_loss",
        "ci_masked_recon_subset_loss",
        "faithfulness_loss",
        "importance_minimality_loss",
        "persistent_pgd_recon_loss",
        "pgd_recon_layerwise_loss",
        "pgd_recon_loss",
        "pgd_recon_subset_loss",
        "stochastic_hidden_acts_recon_loss",
        "stochastic_recon_layerwise_loss",
        "stochastic_recon_loss",
        "stochastic_recon_subset_loss",
        "unmasked_recon_loss",
    },
    "spd.metrics.faithfulness": {
        "faithfulness_loss",
        "faithfulness_sum",
    },
    "spd.metrics.ground_truth": {
        "DirectionMatch",
        "dense_ci_error",
        "direction_match",
        "identity_ci_error",
        "identity_order",
    },
    "spd.metrics.hidden_acts": {
        "stochastic_hidden_acts_recon_loss",
    },
    "spd.metrics.importance_minimality": {
        "annealed_p",
        "importance_minimality_loss",
    },
    "spd.metrics.output_loss": {
        "OutputLossType",
        "SumAndCount",
        "added",
        "output_loss",
    },
    "spd.metrics.pgd_recon": {
        "persistent_pgd_recon_loss",
        "pgd_recon_layerwise_loss",
        "pgd_recon_loss",
        "pgd_recon_subset_loss",
    },
    "spd.metrics.pgd_utils": {
        "Attack",
        "MaskScope",
        "PGDInit",
        "PersistentSources",
        "ascend",
        "initial_sources",
        "mask_infos_of",
        "persistent_shape",
        "pgd_sum",
    },
    "spd.metrics.recon": {
        "ci_masked_recon_layerwise_loss",
        "ci_masked_recon_loss",
        "ci_masked_recon_subset_loss",
        "layer_by_layer",
        "stochastic_recon_layerwise_loss",
        "stochastic_recon_loss",
        "stochastic_recon_subset_loss",
        "unmasked_recon_loss",
    },
    "spd.metrics.target_run": {
        "TargetRun",
    },
    "spd.models": set(),
    "spd.models.component_model": {
        "CIOutputs",
        "ComponentModel",
        "OutputWithCache",
    },
    "spd.models.components": {
        "Components",
        "EmbeddingComponents",
        "Identity",
        "LinearComponents",
        "MLPCiFn",
        "TiedComponents",
        "VectorMLPCiFn",
        "VectorSharedMLPCiFn",
    },
    "spd.models.global_ci": {
        "GlobalSharedMLPCiFn",
        "GlobalSharedTransformerCiFn",
    },
    "spd.models.identity_insertion": {
        "PRE_IDENTITY",
        "input_width",
        "insert_identities",
    },
    "spd.models.layers": {
        "ParallelLinear",
        "SharedLinear",
        "gains",
        "widths",
    },
    "spd.models.masks": {
        "ComponentsMaskInfo",
        "Deltas",
        "FOLDED",
        "make_mask_infos",
        "mask_of",
        "stochastic_mask_infos",
    },
    "spd.models.sigmoids": {
        "SIGMOIDS",
        "SigmoidPair",
        "SigmoidType",
        "hard",
        "leaky_hard",
        "lower_leaky_hard",
        "lower_leaky_hard_published",
        "sigmoid_pair",
        "swish_hard",
        "upper_leaky_hard",
    },
    "spd.models.sites": {
        "BACKENDS",
        "Backend",
        "CacheType",
        "Execution",
        "Known",
        "Site",
        "build_backend",
    },
    "spd.routing": {
        "Router",
        "Routing",
        "route_at_random",
        "route_everywhere",
        "route_uniform_k",
    },
    "spd.sampling": {
        "InjectedSampler",
        "Sampling",
        "SourceSampler",
        "rank_seed",
    },
    "spd.training": {
        "StepLosses",
        "StepResult",
        "Trainer",
        "build_model",
        "faithfulness_warmup",
    },
}


def test_every_module_is_pinned() -> None:
    found = {info.name for info in pkgutil.walk_packages(spd.__path__, "spd.")} | {"spd"}
    assert found == set(SURFACE)


@pytest.mark.parametrize("name", sorted(SURFACE))
def test_public_names(name: str) -> None:
    module = importlib.import_module(name)
    assert set(getattr(module, "__all__", [])) == SURFACE[name]
    assert all(hasattr(module, public) for public in SURFACE[name])


def test_importing_the_package_imports_no_framework() -> None:
    code = "import sys, spd; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_error_can_be_caught_by_the_root() -> None:
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), errors.SPDError)
