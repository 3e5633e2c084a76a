from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from neurograph.config import Config
from neurograph.data import Dataset, load_dataset
from neurograph.errors import ConfigError
from neurograph.experiments import ablation
from neurograph.experiments.ablation import FACTORS, VARIANTS, AblationResult, Variant, choose, run_ablation
from neurograph.model import Model
from neurograph.train.credit import LocalCredit, exact_credit

pytestmark = pytest.mark.needs_extra("sklearn")

TINY = Config.model_validate({"graph": {"widths": [64, 16, 10], "cardinality": 8}, "train": {"epochs": 1}})


def _few(name: str, *, seed: int) -> Dataset:
    data = load_dataset(name, seed=seed)
    return replace(data, train_x=data.train_x[:96], train_y=data.train_y[:96])


def test_every_variant_runs_and_goes_on_from_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablation, "load_dataset", _few)
    path = tmp_path / "ablation.jsonl"
    result = run_ablation((0,), base=TINY, path=path)
    frame = result.to_frame()
    assert frame["variant"].tolist() == [variant.name for variant in VARIANTS]
    assert frame["mean"].between(0, 100).all()
    assert frame["integers"].unique().tolist() == [64 * 8 + 26 * 16]
    assert len(path.read_text(encoding="utf-8").splitlines()) == len(VARIANTS)

    def never(*_: object) -> dict[str, Any]:
        raise AssertionError("a row that is there is not measured again")

    monkeypatch.setattr(ablation, "_one", never)
    assert run_ablation((0,), base=TINY, path=path).rows == result.rows
    with pytest.raises(AssertionError, match="not measured again"):
        run_ablation((1,), base=TINY, path=path)


def test_the_table_has_means_and_differences() -> None:
    rows = [
        {"group": group, "variant": name, "seed": seed, "accuracy": accuracy, "train_accuracy": 1.0} | costs
        for group, name, values in (("reference", "reference", (0.9, 1.0)), ("bins", "16 × 16", (0.8, 0.7)))
        for seed, accuracy in enumerate(values)
        for costs in ({"integers": 4768, "seconds": 2.0},)
    ]
    result = AblationResult(tuple(rows))
    frame = result.to_frame()
    assert frame["mean"].tolist() == pytest.approx([95.0, 75.0])
    assert frame["points"].tolist() == pytest.approx([0.0, -20.0])
    assert "| bins | 16 × 16 | 75.00 | 70.00–80.00 | -20.00 | 4,768 | 2.0 |" in result.to_markdown()


def _told(record: list[tuple[float, int]]) -> Any:
    def measured(variant: Variant, config: Config, data: Dataset, seed: int) -> dict[str, Any]:
        record.append((variant.factor, len(data.train_y) + len(data.test_y)))
        assert config.train.optimizer.lr_phase == pytest.approx(4.0 * variant.factor)
        return {"accuracy": {0.5: 0.7, 1.0: 0.9, 2.0: 0.9}[variant.factor]}

    return measured


def test_the_factor_is_chosen_on_training_samples_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    record: list[tuple[float, int]] = []
    monkeypatch.setattr(ablation, "_one", _told(record))
    found = choose((0, 1), variants=[Variant("one", "credit"), Variant("none", "labels", shuffled=True)],
                   factors=(2.0, 0.5, 1.0), base=TINY)  # fmt: skip
    assert found == {"one": 1.0}, "of two that are equal, the smaller one; nothing for shuffled labels"
    assert {samples for _, samples in record} == {1437}
    assert len(record) == 6


def test_nothing_to_choose_from_is_refused() -> None:
    with pytest.raises(ConfigError, match="Give some of both"):
        choose((0,), factors=())
    for nothing in ({"seeds": ()}, {"variants": ()}):
        with pytest.raises(ConfigError, match="Give some of both"):
            run_ablation(**nothing)  # type: ignore[arg-type]


def test_no_chosen_factor_lies_at_an_end_of_what_was_tried() -> None:
    for variant in VARIANTS:
        assert min(FACTORS) < variant.factor < max(FACTORS), variant.name
        assert variant.factor in FACTORS, variant.name


def test_a_table_without_the_reference_has_no_differences() -> None:
    row = {
        "group": "bins",
        "variant": "b",
        "seed": 0,
        "accuracy": 0.5,
        "train_accuracy": 1.0,
        "integers": 1,
        "seconds": 1.0,
    }
    assert AblationResult((row,)).to_frame()["points"].isna().all()


def test_variants_change_one_thing() -> None:
    base = Config()
    by_name = {variant.name: variant for variant in VARIANTS}
    assert len(by_name) == len(VARIANTS)
    assert by_name["16 × 16"].config(base).tables.phase_bins == 16
    coarse = Variant("16 × 16", "bins", by_name["16 × 16"].changes).config(base).train.optimizer
    assert (coarse.lr_phase, coarse.lr_mag) == (0.125, 0.09375)
    assert by_name["not snapped"].config(base).model.snap is False
    config = by_name["four links by content"].config(base)
    assert config.radiation is not None
    model = Model.build(config, seed=0)
    assert model.engine.radiation is not None
    node = by_name["contrastive, by node"]
    rule = node.credit(node.config(base))
    assert isinstance(rule, LocalCredit)
    assert rule.scope == "node"
    assert by_name["reference"].credit(base) is exact_credit


@pytest.mark.slow
def test_labels_matter() -> None:
    """One split; the figures of all are in the table of results."""
    kept = [variant for variant in VARIANTS if variant.group in ("reference", "labels")]
    frame = run_ablation((0,), variants=kept).to_frame().set_index("group")
    assert frame.loc["reference", "mean"] >= 95
    assert frame.loc["labels", "mean"] <= 20
