"""The names a user may rely on, and that importing the package costs nothing."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

import dredge
from dredge import errors

SURFACE: dict[str, str] = {
    "dredge": "__version__",
    "dredge.api": "",
    "dredge.api.answers": "json_answer",
    "dredge.api.auth": "Gate",
    "dredge.api.bodies": "measure parse_json query read_json read_lines",
    "dredge.api.drawing": (
        "draw_fit_map draw_packets draw_residual draw_residual_map draw_sample_map draw_samples number rounded ticks"
    ),
    "dredge.api.errors": "RefusedError answer_error answer_refusal error_body refusal_of register unfit_fields",
    "dredge.api.excerpts": "Excerpt excerpt marked visible",
    "dredge.api.exchange": "register",
    "dredge.api.ids_cache": "CACHED_BYTES CachedHash IdCache ids_through",
    "dredge.api.insights": "LINES bounded keeping",
    "dredge.api.lift": "lifting",
    "dredge.api.limits": "RateLimiter",
    "dredge.api.openapi": "ABOUT OPERATIONS Operation document",
    "dredge.api.ops": "OPEN operating",
    "dredge.api.pages": "pages",
    "dredge.api.schemas": (
        "BatchBody BatchItem BatchLifted ErrorBody ErrorDetail FoundHit Health Imported InsightPage InsightQuery "
        "LiftBody Lifted Ready Record Reindexed SearchQuery SearchResult ServiceCard SignalBody SignalLifted "
        "SimilarQuery SimilarResult hit_json insight_json moment"
    ),
    "dredge.api.search": "searching",
    "dredge.api.services": "EXTENSION REQUEST_ID Services request_id services",
    "dredge.api.signal_documents": "PacketRow SignalDocument read_document",
    "dredge.api.signal_fits": "kept_signal",
    "dredge.api.signal_forms": "ACCEPTED pasted_samples uploaded_samples",
    "dredge.api.signals": "signalling",
    "dredge.bench": "",
    "dredge.bench.corpus": "QUERY_KINDS edited partial recombined scattered sentences",
    "dredge.bench.fit1d": "AtTimeZero FitRow Scaled measured mse pursued run",
    "dredge.bench.fit4d": "ATOMS TARGETS run samples",
    "dredge.bench.fit6d": "PACKETS run",
    "dredge.bench.hash": "HashRow SIZES measure_hashes",
    "dredge.bench.heldout": "CHOSEN ChoiceRow GRID HeldOutRow REPORTED TUNED choose picture psnr run",
    "dredge.bench.recall": "Half LatencyRow RecallRow Weights fit_weights half_of measure_latency measure_recall",
    "dredge.cli": "app main",
    "dredge.cli.benching": "app",
    "dredge.cli.client": "counters health_of",
    "dredge.cli.configuring": "app",
    "dredge.cli.notes": "backup batch delete export get import_ lift opened reindex search similar stats",
    "dredge.cli.options": "AsJson ConfigFile DatabaseUrl Limit Token settings_of",
    "dredge.cli.output": "insight_values print_facts print_hits print_json print_table say",
    "dredge.cli.serving": "health mcp openapi serve",
    "dredge.cli.waves": "compress fit",
    "dredge.config": (
        "AuthSettings DatabaseSettings LimitSettings LogSettings SearchSettings ServerSettings Settings "
        "default_config_path default_database_path load_settings"
    ),
    "dredge.errors": (
        "ArchiveError ConfigError DivergenceError DredgeError InsightError MissingExtraError ModelError "
        "NotFoundError QueryError SignalError StoreError needed"
    ),
    "dredge.files": "write_whole",
    "dredge.insights": "",
    "dredge.insights.archive": "ImportReport export_lines import_lines",
    "dredge.insights.database": "Database Direct",
    "dredge.insights.duplicates": "DuplicatePair duplicate_pairs duplicates_of",
    "dredge.insights.encoders": "Encoder HashedNgramEncoder encoder_named encoder_names normalised register_encoder",
    "dredge.insights.engines": "BEGIN_WRITE Dialect WRITES database_url postgresql_engine sqlite_engine",
    "dredge.insights.frequencies": "WordFrequencies",
    "dredge.insights.fulltext": "lexical tsvector_literal words",
    "dredge.insights.fusion": (
        "Candidate FUSION Fusion asked_words exact_cosines read_likeliest relative_scores share_of unit"
    ),
    "dredge.insights.ids": "check_text fingerprint insight_id",
    "dredge.insights.migrations": "",
    "dredge.insights.putting": "put_signal put_text put_texts",
    "dredge.insights.reading": (
        "Page StoreStats count_of ids_between insight_of insights_with microseconds moment page_of selected stats_of"
    ),
    "dredge.insights.records": "Hit Insight Kind Stored",
    "dredge.insights.rows": (
        "Draft Known add add_or_count count count_one document_json drafts encoded is_there known replace_signal ticks"
    ),
    "dredge.insights.schema": "SCHEMA_VERSION VERSION_TABLE clock deletions insights migrate schema_version signals",
    "dredge.insights.search": "MAX_RESULTS Mode Searcher check_query",
    "dredge.insights.store": "Changes Page Store StoreStats",
    "dredge.insights.vector_changes": "Changes changes_after encode_anew",
    "dredge.insights.vectors": "Snapshot VectorIndex cosines quantised",
    "dredge.logs": "Logger described_exception make_logger standard_logging",
    "dredge.mcp_server": "Batch BatchItem Found Kept Record make_mcp_server run_mcp_server",
    "dredge.metrics": "CONTENT_TYPE Metrics share_between_processes shared_folder",
    "dredge.quasimoto": "",
    "dredge.quasimoto.baselines": "BASELINES Finer FourierFeatures MultiplicativeFilters Siren Wire baseline",
    "dredge.quasimoto.compress": "Compression compressed dequantised quantised",
    "dredge.quasimoto.data": "generate_4d_data generate_6d_data generate_data",
    "dredge.quasimoto.dictionary": "Dictionary one_packet",
    "dredge.quasimoto.ensembles": "QuasimotoEnsemble QuasimotoEnsemble4D QuasimotoEnsemble6D WaveEnsemble",
    "dredge.quasimoto.fitting": "EpochRow FitResult fit mixed_precision",
    "dredge.quasimoto.interference": "MIN_SIGMA QuasimotoInterferenceBasis",
    "dredge.quasimoto.interpolation": "interpolate",
    "dredge.quasimoto.layers": "RandomFourierFeatures SirenLayer",
    "dredge.quasimoto.levenberg_marquardt": "Bounds Geometry RIDGE Refined refine solve_amplitudes",
    "dredge.quasimoto.packets": "Packet WavePackets packet_energy squared_distances",
    "dredge.quasimoto.plots": "plot_history plot_packets",
    "dredge.quasimoto.processes": "Processes",
    "dredge.quasimoto.pursuit": "initialise packets_from polish pursue",
    "dredge.quasimoto.signal_files": "SUFFIXES read_signal",
    "dredge.quasimoto.tensor_files": "FORMAT compress_file load_model save_model",
    "dredge.quasimoto.training": "LEARNING_RATE train_model train_model_4d train_model_6d",
    "dredge.quasimoto.waves": "QuasimotoWave QuasimotoWave4D QuasimotoWave6D WaveBank",
    "dredge.quasimoto_extended_benchmark": (
        "QuasimotoEnsemble QuasimotoEnsemble4D QuasimotoEnsemble6D QuasimotoInterferenceBasis QuasimotoWave "
        "QuasimotoWave4D QuasimotoWave6D RandomFourierFeatures SirenLayer generate_4d_data generate_6d_data "
        "generate_data train_model train_model_4d train_model_6d"
    ),
    "dredge.reference": "",
    "dredge.reference.oracle_packets": "packet_energy_by_sum packets_at squared_distance",
    "dredge.reference.oracle_search": "bm25 cosine fused near_pairs ngram_vector rounded",
    "dredge.reference.oracle_waves": "density interference wave",
    "dredge.reference.original": (
        "InterferenceAfter InterferenceBefore chained_4d chained_6d hash_after hash_before in_place_4d in_place_6d "
        "train_as_coded zero_to_none zero_to_zeros"
    ),
    "dredge.server": "create_app run_server",
    "dredge.signals": "LiftedSignal TITLE_CHARACTERS check_title lift_signal samples_of signal_id",
}
"""Public names of each module."""


def test_every_module_is_pinned() -> None:
    found = {info.name for info in pkgutil.walk_packages(dredge.__path__, "dredge.")} | {"dredge"}
    # One runs the command where it is imported, the others are run by alembic.
    found = {name for name in found if name != "dredge.__main__" and not name.startswith("dredge.insights.migrations.")}
    assert found == set(SURFACE)


@pytest.mark.parametrize("name", sorted(SURFACE))
def test_public_names(name: str) -> None:
    module = importlib.import_module(name)
    assert set(getattr(module, "__all__", [])) == set(SURFACE[name].split())
    assert all(hasattr(module, public) for public in SURFACE[name].split())


def test_importing_the_package_imports_no_framework() -> None:
    code = "import sys, dredge; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_error_can_be_caught_by_the_root() -> None:
    for name in errors.__all__:
        found = getattr(errors, name)
        assert not isinstance(found, type) or issubclass(found, errors.DredgeError)
