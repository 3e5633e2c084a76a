"""Text from a file, a folder or the Hugging Face Hub, as rows of tokens of one length.

Documents are tokenised whole and without special tokens, joined by the tokenizer's end-of-text token, and cut into rows
of `max_seq_len` tokens; the tail that fills no row is dropped. The original cut the joined text into twenty pieces
first, through the middle of words; here a token is never an artefact of such a cut. Needs the extra `lm`.
"""

import importlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int32
from torch import Tensor

from spd.config.tasks import LMTask
from spd.errors import DataError, MissingExtraError

__all__ = ["cut_into_rows", "documents_of", "import_lm", "load_tokenizer", "open_texts", "read_rows"]

_BUILDERS = {".txt": "text", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
_SPLITS = {"train", "validation", "valid", "val", "dev", "test", "eval"}
_READ = 256
"""Documents that are tokenised in one call."""


def import_lm(name: str) -> Any:
    """A module that the extra `lm` installs.

    Args:
        name: "transformers" or "datasets".

    Returns:
        The module.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(
            f"language models and texts are loaded with {name}, which is not installed ({error}). Install the extra "
            "that brings it: pip install './packages/spd[lm]'."
        ) from error


def load_tokenizer(task: LMTask) -> Any:
    """The task's tokenizer.

    Args:
        task: names it, or the model whose tokenizer it is.

    Returns:
        The tokenizer.

    Raises:
        DataError: no tokenizer there.
        MissingExtraError: transformers is not installed.
    """
    transformers = import_lm("transformers")
    name = task.tokenizer_name or task.pretrained_model_name
    try:
        return transformers.AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise DataError(
            f"a tokenizer is a folder or a name on the Hugging Face Hub; {name!r} gave none: {error}. Set "
            "task_config.tokenizer_name."
        ) from error


def open_texts(task: LMTask, split: str) -> Any:
    """The set of documents, not yet tokenised.

    A folder holds files of one kind, `.txt`, `.jsonl` or `.parquet`, or what `save_to_disk` wrote. A file belongs to
    the split that its name or its sub-folder begins with (`train-00001.parquet`, `test/a.txt`), and to "train" where
    that is none. Documents of a `.txt` file are separated by an empty line. Parts of a split are named as datasets
    names them, "train[95%:]" for its end, where the set is not streamed.

    Args:
        task: names the set.
        split: the split.

    Returns:
        A `datasets.Dataset`, or an `IterableDataset` where the task streams.

    Raises:
        DataError: no such set, no such split, files of several kinds, or no such column.
        MissingExtraError: datasets is not installed.
    """
    datasets = import_lm("datasets")
    path = Path(task.dataset_name)
    try:
        if path.is_dir() and any((path / name).exists() for name in ("state.json", "dataset_dict.json")):
            found = _from_disk(datasets, path, split, streaming=task.streaming)
        elif path.exists():
            builder, files = _files(path, task)
            how = {"sample_by": "paragraph"} if builder == "text" else {}
            found = datasets.load_dataset(builder, data_files=files, split=split, streaming=task.streaming, **how)
        else:
            found = datasets.load_dataset(task.dataset_name, task.dataset_config, split=split, streaming=task.streaming)
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"a set of texts is a file, a folder or a name on the Hugging Face Hub, with the split asked for; "
            f"{task.dataset_name!r} gave no {split!r}: {error}. Correct dataset_name, or the name of the split."
        ) from error
    columns = found.column_names
    if columns is not None and task.column_name not in columns:
        raise DataError(
            f"the column that holds the text is one of {', '.join(columns)}; got {task.column_name!r}. Set "
            "task_config.column_name."
        )
    return found


def _from_disk(datasets: Any, path: Path, split: str, *, streaming: bool) -> Any:
    found = datasets.load_from_disk(str(path))
    there = found if isinstance(found, dict) else {"train": found}
    if split not in there:
        raise DataError(f"{path} has the splits {', '.join(there)}; got {split!r}. Name one of them.")
    return there[split].to_iterable_dataset() if streaming else there[split]


def _files(path: Path, task: LMTask) -> tuple[str, dict[str, list[str]]]:
    """What reads them, and files by split."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix in _BUILDERS)
    builders = {_BUILDERS.get(file.suffix) for file in files}
    if len(builders) != 1 or None in builders:
        raise DataError(
            f"texts are files of one kind, {', '.join(_BUILDERS)}; {path} holds "
            f"{', '.join(sorted({file.suffix for file in files})) or 'none of them'}. Name a file, or another folder."
        )
    known = _SPLITS | {_first_word(name) for name in (task.train_split, task.eval_split)}
    splits: dict[str, list[str]] = {}
    for file in files:
        word = "" if path.is_file() else _first_word(file.relative_to(path).parts[0])
        splits.setdefault(word if word in known else "train", []).append(str(file))
    return str(builders.pop()), splits


def _first_word(name: str) -> str:
    found = re.match(r"[A-Za-z]+", name)
    return found.group() if found else ""


# --- rows -------------------------------------------------------------------------------------------------------------


def read_rows(task: LMTask, split: str, tokenizer: Any = None, *, seed: int = 0) -> Int32[Tensor, "rows seq"]:
    """A whole split as rows of tokens.

    Args:
        task: names the set, the column and the length of a row.
        split: the split.
        tokenizer: unless the column holds tokens already.
        seed: of the order in which documents are joined.

    Returns:
        The rows; of tokenised examples their beginnings.

    Raises:
        DataError: no such data, examples that are too short, or not one row.
        MissingExtraError: datasets is not installed.
    """
    texts = open_texts(task.model_copy(update={"streaming": False}), split).shuffle(seed=seed, keep_in_memory=True)
    rows = cut_into_rows(documents_of(texts, task.column_name), task, tokenizer)
    if not len(rows):
        raise DataError(
            f"a row has {task.max_seq_len} tokens; {task.dataset_name!r} ({split}) has not enough for one. Lower "
            "max_seq_len, or name a longer text."
        )
    return rows


def documents_of(texts: Any, column: str) -> Iterator[Any]:
    """What a column holds, one after the other.

    Args:
        texts: from `open_texts`.
        column: its name.

    Yields:
        Strings, or lists of tokens.
    """
    # By `iter`, not `iter(texts)`: in a worker of a loader the latter leaves out shares of the set of its own accord.
    for part in texts.select_columns([column]).iter(batch_size=_READ):
        yield from part[column]


def cut_into_rows(documents: Iterable[Any], task: LMTask, tokenizer: Any) -> Int32[Tensor, "rows seq"]:
    """Documents, joined and cut.

    Args:
        documents: strings, of which empty ones are left out, or lists of tokens, of which the beginnings are taken.
        task: says which, and the length of a row.
        tokenizer: unless they are tokens already.

    Returns:
        Rows, the tail dropped; possibly none.

    Raises:
        DataError: no tokenizer, one without an end-of-text token, or tokenised examples that are too short.
    """
    length = task.max_seq_len
    if task.is_tokenized:
        return _beginnings(documents, task)
    if tokenizer is None or tokenizer.eos_token_id is None:
        raise DataError(
            "documents are tokenised, and joined by the tokenizer's end-of-text token; there is "
            f"{'no tokenizer' if tokenizer is None else 'none'}. Set tokenizer_name to a tokenizer that has one."
        )
    parts = [np.zeros(0, dtype=np.int32)]
    for some in _in_parts(document for document in documents if document):
        found = tokenizer(some, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        parts += [np.asarray([*ids, tokenizer.eos_token_id], dtype=np.int32) for ids in found]
    joined = np.concatenate(parts)[:-1]
    whole = len(joined) // length
    return torch.from_numpy(joined[: whole * length].reshape(whole, length))


def _beginnings(examples: Iterable[Sequence[int]], task: LMTask) -> Int32[Tensor, "rows seq"]:
    length, rows = task.max_seq_len, []
    for example in examples:
        if len(example) < length:
            raise DataError(
                f"examples that are tokens already have at least max_seq_len of them, {length}; one of "
                f"{task.dataset_name!r} has {len(example)}. Lower max_seq_len."
            )
        rows.append(np.asarray(example[:length], dtype=np.int32))
    return torch.from_numpy(np.stack(rows) if rows else np.zeros((0, length), dtype=np.int32))


def _in_parts(documents: Iterable[str]) -> Iterator[list[str]]:
    part: list[str] = []
    for document in documents:
        part.append(document)
        if len(part) == _READ:
            yield part
            part = []
    if part:
        yield part
