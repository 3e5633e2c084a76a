"""Two thousand requests made from the OpenAPI document, right ones and wrong ones, all answered as it says."""

from collections.abc import Callable
from typing import Any

import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

from dredge.config import Settings
from dredge.insights.store import Store
from dredge.server import create_app

pytestmark = pytest.mark.needs_extra("torch")

CASES = 2000
# Of a request that fits its schema, 422 says what a schema cannot: a cursor of nowhere, samples that are no signal.
CONFIG = {"checks": {"positive_data_acceptance": {"expected-statuses": ["2xx", "404", "422"]}}}

schemathesis.serializer.alias("application/x-ndjson", "text/plain")


@pytest.fixture
def app(store: Store) -> Flask:
    limits = {"fit_seconds": 0.02, "signal_points": 50, "batch_items": 20}
    store.put_many(["gravity waves", "a sourdough", "glaciers"])
    return create_app(Settings(log={"level": "ERROR"}, limits=limits), store)


def test_two_thousand_cases_have_no_failure(app: Flask) -> None:
    schema = schemathesis.openapi.from_wsgi("/openapi.json", app, config=schemathesis.Config.from_dict(CONFIG))
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) == 15  # the document does not ask for itself
    with_input = [one for one in operations if one.body or one.query or one.path_parameters]
    each = CASES // (2 * len(with_input)) + 1
    made: dict[str, int] = {}
    for operation in operations:
        modes = (
            (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
            if operation in with_input
            else (GenerationMode.POSITIVE,)
        )
        for mode in modes:
            made[operation.label] = made.get(operation.label, 0) + run(operation.as_strategy(mode), each)
    assert sum(made.values()) >= CASES, made


def run(strategy: Any, examples: int) -> int:
    count = 0

    @settings(
        max_examples=examples, database=None, derandomize=True, deadline=None,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def every(case: Any) -> None:
        nonlocal count
        count += 1
        case.call_and_validate()

    check: Callable[[], None] = every
    check()
    return count
