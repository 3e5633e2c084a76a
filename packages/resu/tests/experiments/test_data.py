"""The tasks: parts that never overlap, a test split that no seed moves, and where the data is from."""

import hashlib
import sys

import pytest
import torch

from resu.errors import ConfigError, MissingExtraError
from resu.experiments import data
from resu.experiments.data import CONTEXT, load_task


def rows(part: data.Part) -> set[int]:
    return set(part.rows.tolist())


@pytest.mark.needs_extra("sklearn")
def test_digits_are_parted_and_no_seed_moves_the_test_split() -> None:
    first = load_task("digits", 0)
    assert [len(part) for part in (first.train, first.validation, first.both, first.test)] == [1000, 250, 1250, 547]
    seen = set()
    for seed in range(5):
        task = load_task("digits", seed)
        assert rows(task.test) == rows(first.test)
        assert not rows(task.validation) & rows(task.test)
        assert not rows(task.train) & (rows(task.test) | rows(task.validation))
        assert rows(task.both) == rows(task.train) | rows(task.validation)
        assert rows(task.both) | rows(task.test) == set(range(1797))
        seen.add(frozenset(rows(task.validation)))
    assert len(seen) == 5
    assert rows(load_task("digits", 0, split=1).test) != rows(first.test)


@pytest.mark.needs_extra("sklearn")
def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    bunch, task = load_digits(), load_task("digits", 3)
    for part in (task.train, task.test):
        images = torch.tensor(bunch.data[part.rows.numpy()] / 16, dtype=torch.float32)
        assert torch.equal(part.inputs, images)
        assert part.targets.tolist() == bunch.target[part.rows.numpy()].tolist()
    assert 0 <= float(task.both.inputs.min()) < float(task.both.inputs.max()) == 1
    assert task.source["version"].startswith("scikit-learn ")


def test_characters_are_parted_in_order_and_contexts_stay_within_their_part() -> None:
    task = load_task("characters")
    assert int(task.train.rows[-1]) < int(task.validation.rows[0]) - CONTEXT
    assert int(task.validation.rows[-1]) < int(task.test.rows[0]) - CONTEXT
    assert int(task.both.rows[-1]) == int(task.validation.rows[-1])
    n = int(task.test.rows[-1]) + 1
    assert abs(len(task.test) - n / 10) < 20
    assert abs(len(task.validation) - n / 10) < 20
    for part in (task.train, task.validation, task.test):
        # The characters that an example sees begin at `row - CONTEXT`, which is the part's own first one.
        assert part.inputs.shape == (len(part), CONTEXT)
        assert torch.equal(part.inputs[1:, -1], part.targets[:-1])
    assert load_task("characters", 5) is task


def test_characters_spell_pythons_topics() -> None:
    from pydoc_data.topics import topics

    text = "\n\n".join(topics[name] for name in sorted(topics))
    task, alphabet = load_task("characters"), sorted(set(text))
    assert task.classes == len(alphabet)
    for index in (0, 1, 5000, -1):
        row = int(task.test.rows[index])
        assert "".join(alphabet[code] for code in task.test.inputs[index].tolist()) == text[row - CONTEXT : row]
        assert alphabet[int(task.test.targets[index])] == text[row]
    assert task.source["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert task.source["version"].startswith("Python 3.")


def test_stages_pair_the_parts() -> None:
    task = load_task("characters")
    assert task.parts("tune") == (task.train, task.validation)
    assert task.parts("test") == (task.both, task.test)


def test_without_scikit_learn_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    data._digit_images.cache_clear()
    with pytest.raises(MissingExtraError, match="extra 'experiments'"):
        load_task("digits")


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ConfigError, match="got 'mnist'"):
        load_task("mnist")
