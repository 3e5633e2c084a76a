"""Settings that cannot be run are refused when they are built, with what to do instead."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from boolean_nca_cc.meta.settings import DamageConfig, MetaConfig, PoolConfig, RuleConfig


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        (RuleConfig, {"width": 10, "heads": 4}, r"4 heads for a width of 10\. Use a width of 12"),
        (RuleConfig, {"hidden": 1}, "greater than or equal to 2"),
        (RuleConfig, {"width": 1, "heads": 1}, "greater than or equal to 2"),
        (RuleConfig, {"depth": 0}, "greater than 0"),
        (RuleConfig, {"kind": "transformer"}, "'attention' or 'gnn'"),
        (RuleConfig, {"aggregate": "mean"}, "'sum' or 'attention'"),
        (PoolConfig, {"genetic": 2}, r"genetic is 2 and wiring is 'fixed'\. Use wiring='random', or genetic=0"),
        (PoolConfig, {"reset": 1.5}, "less than or equal to 1"),
        (PoolConfig, {"reset_by": "age"}, "'uniform', 'steps', 'loss' or 'mixed'"),
        (DamageConfig, {"dead": -1}, "greater than or equal to 0"),
        (DamageConfig, {"kind": "greedy"}, "'permanent', 'reversible' or 'seu'"),
        (MetaConfig, {"batch": 9, "pool": {"size": 8}}, r"it has 9 circuits and the pool 8\. Use a larger pool"),
        (MetaConfig, {"loss_step": "first"}, "'last', 'random' or 'beta'"),
        (MetaConfig, {"epoch": 3}, "Extra inputs are not permitted"),
        (MetaConfig, {"learning_rate": 0.0}, "greater than 0"),
    ],
)
def test_bad_settings_are_refused(kind: type[BaseModel], values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        kind(**values)


def test_heads_bind_only_the_rule_that_has_them() -> None:
    assert RuleConfig(kind="gnn", width=10, heads=4).width == 10
    assert RuleConfig(width=12, heads=4).heads == 4


def test_settings_are_values() -> None:
    """They are static arguments of compiled functions: equal ones must share a program, and none may change."""
    one, other = MetaConfig(batch=4, pool=PoolConfig(size=4)), MetaConfig(batch=4, pool=PoolConfig(size=4))
    assert one == other
    assert hash(one) == hash(other)
    assert one != MetaConfig(batch=4, pool=PoolConfig(size=5))
    with pytest.raises(ValidationError, match="frozen"):
        one.batch = 5
    assert MetaConfig.model_validate(one.model_dump(mode="json")) == one
