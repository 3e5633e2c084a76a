"""Two small tasks that need no download: handwritten digits, and the characters of Python's own documentation.

The test part is fixed by one number (`split`) and is the same for every seed; nothing is ever chosen by it. What is
left is training, of which a part is held back for validation while settings are chosen. When they are chosen, models
are trained on both and scored on the test part.
"""

import hashlib
import platform
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from resu.errors import ConfigError, MissingExtraError

__all__ = ["CONTEXT", "Part", "Stage", "TaskData", "TaskName", "load_task"]

TaskName = Literal["digits", "characters"]
Stage = Literal["tune", "test"]

CONTEXT = 12
"""Characters that the character model sees."""

_TEST_DIGITS = 547
_VALIDATION_DIGITS = 250


@dataclass(frozen=True)
class Part:
    """Examples.

    Args:
        inputs: one row an example: pixels in [0, 1] as float32, or the codes of the characters before.
        targets: class of each, or the code of the next character.
        rows: where each example lies in the task's source: which image, or which character is to be predicted.
    """

    inputs: Shaped[Tensor, "examples features"]
    targets: Int[Tensor, " examples"]
    rows: Int[Tensor, " examples"]

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class TaskData:
    """A task with its parts.

    Args:
        name: which task.
        train: what models learn from while settings are chosen.
        validation: what settings are chosen by.
        both: the two together, from which models learn once settings are chosen.
        test: what is reported.
        classes: classes, or characters of the alphabet.
        source: where the data is from, its version and its SHA-256.
    """

    name: TaskName
    train: Part
    validation: Part
    both: Part
    test: Part
    classes: int
    source: dict[str, str]

    def parts(self, stage: Stage) -> tuple[Part, Part]:
        """What to learn from and what to score on: train and validation to tune, both and test to report."""
        return (self.train, self.validation) if stage == "tune" else (self.both, self.test)


def load_task(name: str, seed: int = 0, *, split: int = 0) -> TaskData:
    """A task.

    Args:
        name: "digits": 1797 images of 8 x 8 pixels (scikit-learn's `load_digits`), 547 of them for testing and 250 of
            the rest for validation. "characters": the text of `pydoc_data.topics`, in the order of its topics' names,
            the last tenth for testing and the tenth before it for validation; an example is 12 characters and the next.
        seed: which digits are held back for validation.
        split: which digits are for testing.

    Returns:
        The data.

    Raises:
        ConfigError: no such task.
        MissingExtraError: "digits" without scikit-learn.

    >>> data = load_task("characters")
    >>> data.test.inputs.shape[1], data.train.targets.dtype
    (12, torch.int64)
    """
    if name == "digits":
        return _digits(seed, split)
    if name == "characters":
        return _characters()
    raise ConfigError(f"a task is one of {', '.join(get_args(TaskName))}; got {name!r}. Choose one of them.")


@lru_cache(maxsize=1)
def _digit_images() -> tuple[Tensor, Tensor, str]:
    try:
        from sklearn import __version__ as version  # type: ignore[import-untyped]
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtraError(
            "the task 'digits' reads scikit-learn's digits, and scikit-learn is not installed. Install the extra "
            "'experiments' of this package, or use the task 'characters'."
        ) from error
    bunch = load_digits()
    images = torch.tensor(bunch.data / 16, dtype=torch.float32)
    return images, torch.tensor(bunch.target, dtype=torch.int64), version


def _digits(seed: int, split: int) -> TaskData:
    images, labels, version = _digit_images()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(split))
    test, rest = order[:_TEST_DIGITS], order[_TEST_DIGITS:]
    rest = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))]

    def part(rows: Tensor) -> Part:
        return Part(images[rows], labels[rows], rows)

    digest = hashlib.sha256(images.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()
    return TaskData(
        name="digits",
        train=part(rest[_VALIDATION_DIGITS:]),
        validation=part(rest[:_VALIDATION_DIGITS]),
        both=part(rest),
        test=part(test),
        classes=10,
        source={"data": "sklearn.datasets.load_digits", "version": f"scikit-learn {version}", "sha256": digest},
    )


@lru_cache(maxsize=1)
def _characters() -> TaskData:
    from pydoc_data.topics import topics

    text = "\n\n".join(topics[name] for name in sorted(topics))
    alphabet = {character: code for code, character in enumerate(sorted(set(text)))}
    codes = torch.tensor([alphabet[character] for character in text], dtype=torch.int64)
    first, second = len(text) * 8 // 10, len(text) * 9 // 10

    def part(start: int, stop: int) -> Part:
        # The first characters of a part are context only, so that no part sees a character of another.
        windows = codes[start:stop].unfold(0, CONTEXT + 1, 1)
        return Part(windows[:, :CONTEXT], windows[:, CONTEXT], torch.arange(start + CONTEXT, stop))

    return TaskData(
        name="characters",
        train=part(0, first),
        validation=part(first, second),
        both=part(0, second),
        test=part(second, len(text)),
        classes=len(alphabet),
        source={
            "data": "pydoc_data.topics",
            "version": f"Python {platform.python_version()}",
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
        },
    )
