"""Language models and texts through transformers and datasets: what is loaded, what loaders give, and decomposing it.

Everything is made here: small random models, a tokenizer trained on the text that Python brings with it, no network.
"""

import os
from collections import Counter
from pathlib import Path
from pydoc_data import topics
from typing import Any

import numpy as np
import pytest
import torch

from spd import texts
from spd.config.losses import (
    FaithfulnessLoss,
    ImportanceMinimalityLoss,
    StochasticReconLayerwiseLoss,
    StochasticReconLoss,
)
from spd.config.models import MLPConfig, ModulePattern, SharedMLPConfig
from spd.config.perf import PerfConfig
from spd.config.run import Config
from spd.config.schedules import LrSchedule
from spd.config.tasks import LMTask, TMSTask
from spd.data import batches, create_data_loader, loop_data_loader
from spd.errors import ConfigError, DataError, MissingExtraError, TargetError
from spd.experiments.decompose import decompose
from spd.experiments.lm.lm_decomposition import build_lm_task, load_hf_model
from spd.models.masks import ComponentsMaskInfo
from spd.sampling import SourceSampler
from spd.texts import load_tokenizer, read_rows
from spd.tokens import StreamedTokens, TokenStream, text_stream
from spd.training import Trainer, build_model

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers and datasets are first imported, in a fixture
os.environ["TOKENIZERS_PARALLELISM"] = "false"

pytestmark = [
    pytest.mark.needs_extra("transformers", "datasets"),
    # Python 3.12 says so wherever a loader's workers are forked from a process with threads.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes:UserWarning"),
]
BACKENDS = ("ephemeral_hooks", "persistent_hooks", "inline")
SEQ = 16


@pytest.fixture(scope="module")
def text() -> list[str]:
    """Paragraphs of Python's own documentation."""
    found = "\n\n".join(topics.topics[name] for name in sorted(topics.topics)[:12])
    return [paragraph for paragraph in found.split("\n\n") if paragraph.strip()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, text: list[str]) -> Path:
    """A tokenizer, a GPT-2, a Llama, and the text."""
    import datasets
    import tokenizers
    import transformers

    at = tmp_path_factory.mktemp("lm")
    datasets.config.HF_DATASETS_CACHE = at / "cache"
    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel()
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<end>"], show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    made.train_from_iterator(text[:200], trainer)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>")
    torch.manual_seed(0)
    models = {
        "gpt2": transformers.GPT2LMHeadModel(
            transformers.GPT2Config(n_layer=2, n_embd=32, n_head=2, n_positions=64, vocab_size=400)
        ),
        "llama": transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                num_hidden_layers=2, hidden_size=32, intermediate_size=48, num_attention_heads=2,
                num_key_value_heads=1, vocab_size=400, max_position_embeddings=64,
            )
        ),
    }  # fmt: skip
    for name, model in models.items():
        model.save_pretrained(at / name)
        fast.save_pretrained(at / name)
    (at / "text").mkdir()
    (at / "text" / "train.txt").write_text("\n\n".join(text[:-40]), encoding="utf-8")
    (at / "text" / "test.txt").write_text("\n\n".join(text[-40:]), encoding="utf-8")
    return at


def _task(folder: Path, model: str = "gpt2", **settings: Any) -> LMTask:
    return LMTask(
        **{
            "pretrained_model_name": str(folder / model),
            "dataset_name": str(folder / "text"),
            "max_seq_len": SEQ,
            **settings,
        }
    )


# --- texts ------------------------------------------------------------------------------------------------------------


def _by_hand(tokenizer: Any, documents: list[str], length: int = SEQ) -> list[list[int]]:
    joined: list[int] = []
    for number, document in enumerate(documents):
        joined += [*([tokenizer.eos_token_id] if number else []), *tokenizer(document)["input_ids"]]
    return [joined[i : i + length] for i in range(0, len(joined) - length + 1, length)]


def test_documents_are_joined_by_the_end_of_text_and_cut(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(texts, "_READ", 2)  # joined over several calls of the tokenizer
    documents = ["one two three", "", "four five", "six seven eight nine", "ten"]
    file = tmp_path / "text.jsonl"
    file.write_text("\n".join(f'{{"story": "{document}"}}' for document in documents), encoding="utf-8")
    task = _task(folder, dataset_name=str(file), column_name="story", max_seq_len=3)
    tokenizer = load_tokenizer(task)
    order = np.random.default_rng(5).permutation(len(documents))  # as datasets draws it
    expected = _by_hand(tokenizer, [documents[i] for i in order if documents[i]], 3)
    rows = read_rows(task, "train", tokenizer, seed=5)
    assert rows.dtype == torch.int32
    assert rows.tolist() == expected
    assert tokenizer.eos_token_id in rows
    assert not torch.equal(rows, read_rows(task, "train", tokenizer, seed=6))


def test_tokenised_examples_are_shortened_and_never_filled(folder: Path, tmp_path: Path) -> None:
    import datasets

    table = datasets.Dataset.from_dict({"input_ids": [[1, 2, 3, 4], [5, 6, 7, 8]]})
    table.to_parquet(tmp_path / "train-0.parquet")
    datasets.DatasetDict({"train": table}).save_to_disk(tmp_path / "disk")
    for name in ("train-0.parquet", "disk"):
        task = _task(
            folder, dataset_name=str(tmp_path / name), column_name="input_ids", is_tokenized=True, max_seq_len=3
        )
        assert sorted(read_rows(task, "train").tolist()) == [[1, 2, 3], [5, 6, 7]]
        if name == "disk":  # datasets waits five seconds at the end of a streamed Parquet file
            stream = StreamedTokens(task, "train", None, 2)
            assert sorted(stream.batch(3).tolist()) == [[1, 2, 3], [5, 6, 7]]
        with pytest.raises(DataError, match=r"at least max_seq_len of them, 5; one of .* has 4"):
            read_rows(task.model_copy(update={"max_seq_len": 5}), "train")


def test_a_part_of_a_split(folder: Path) -> None:
    task = _task(folder, dataset_name=str(folder / "text" / "train.txt"))
    tokenizer = load_tokenizer(task)
    whole, first, last = (len(read_rows(task, name, tokenizer)) for name in ("train", "train[:90%]", "train[90%:]"))
    assert last < first < whole
    assert abs(whole - first - last) <= 1  # one tail more


def test_files_belong_to_the_split_that_they_are_named_after(folder: Path, tmp_path: Path) -> None:
    contents = {"book.txt": "one", "train-1.txt": "two", "test/b.txt": "three\n\nfour", "held/c.txt": "five"}
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    task = _task(folder, dataset_name=str(tmp_path), eval_split="held[:100%]")
    found = {
        split: sorted(texts.documents_of(texts.open_texts(task, split), "text"))
        for split in ("train", "test", "held[:100%]")
    }
    assert found == {"train": ["one", "two"], "test": ["four", "three"], "held[:100%]": ["five"]}
    (tmp_path / "more.jsonl").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match=r"holds \.jsonl, \.txt"):
        texts.open_texts(task, "train")


@pytest.mark.parametrize(
    ("settings", "split", "message"),
    [
        ({"dataset_name": "/nowhere/at/all"}, "train", "gave no 'train'"),
        ({}, "validation", "gave no 'validation'"),
        ({"column_name": "story"}, "train", "one of text; got 'story'"),
        ({"max_seq_len": 10**6}, "train", "not enough for one"),
        ({"dataset_name": "{folder}/gpt2/config.json"}, "train", "got 'text'"),
        ({"dataset_name": "{folder}/gpt2/model.safetensors"}, "train", "texts are files of one kind"),
        ({"tokenizer_name": "/nowhere/at/all"}, "train", "a tokenizer is a folder"),
    ],
)
def test_texts_that_cannot_be_read(folder: Path, settings: dict[str, Any], split: str, message: str) -> None:
    settings = {k: v.format(folder=folder) if isinstance(v, str) else v for k, v in settings.items()}
    task = _task(folder, **settings)
    with pytest.raises(DataError, match=message):
        read_rows(task, split, load_tokenizer(task))


def test_a_tokenizer_without_an_end_of_text(folder: Path) -> None:
    task = _task(folder)
    tokenizer = load_tokenizer(task)
    tokenizer.eos_token = None
    with pytest.raises(DataError, match="end-of-text token; there is none"):
        read_rows(task, "train", tokenizer)


def test_without_the_extra(monkeypatch: Any) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install '\./packages/spd\[lm\]'"):
        texts.open_texts(LMTask(pretrained_model_name="m", dataset_name="d"), "train")


# --- loaders ----------------------------------------------------------------------------------------------------------


def _rows(loader: Any) -> Counter[tuple[int, ...]]:
    return Counter(tuple(row) for batch in loader for row in batch.tolist())


@pytest.mark.parametrize("streaming", [False, True])
def test_workers_and_ranks_share_the_same_rows(folder: Path, streaming: bool) -> None:
    task = _task(folder, streaming=streaming, buffer_size=100, max_seq_len=32)
    size = 1  # so that nothing is dropped
    whole, tokenizer = create_data_loader(task, size)
    expected = _rows(whole)
    assert tokenizer.eos_token_id in {token for row in expected for token in row}
    for workers in (2, 4):
        assert _rows(create_data_loader(task, size, num_workers=workers)[0]) == expected
    n = expected.total()
    for ranks, workers in ((3, 0), (2, 2)):
        shares = [
            _rows(create_data_loader(task, size, rank=rank, world_size=ranks, num_workers=workers)[0])
            for rank in range(ranks)
        ]
        together = sum(shares, Counter())
        if streaming:
            assert together == expected
            assert sum(share.total() > n / 10 for share in shares) >= 2
        else:
            assert together <= expected  # what fills no batch on each rank is left out
            assert together.total() == n // ranks * ranks


def test_workers_change_no_batch_of_text_held_in_memory(folder: Path) -> None:
    task = _task(folder)
    one, two = (create_data_loader(task, 4, num_workers=workers, global_seed=3)[0] for workers in (0, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not any(
        torch.equal(next(iter(one)), next(iter(create_data_loader(task, 4, global_seed=s)[0]))) for s in (4,)
    )


@pytest.mark.parametrize(("streaming", "workers"), [(False, 0), (False, 2), (True, 0), (True, 2)])
def test_a_loop_goes_on_where_it_was(folder: Path, streaming: bool, workers: int) -> None:
    task = _task(folder, streaming=streaming, buffer_size=50)
    loader, _ = create_data_loader(task, 64, num_workers=workers)
    per_pass = sum(1 for _ in loader)
    loop = loop_data_loader(loader)
    made = [next(loop) for _ in range(per_pass + 3)]
    loop.close()
    assert not torch.equal(made[0], made[per_pass])  # another order in the second pass
    for start in (2, per_pass + 1):
        again = loop_data_loader(create_data_loader(task, 64, num_workers=workers)[0], start=start)
        assert torch.equal(next(again), made[start])
        assert torch.equal(next(again), made[start + 1])
        again.close()


@pytest.mark.parametrize("streaming", [False, True])
def test_a_stream_gives_the_same_batch_for_an_index(folder: Path, streaming: bool) -> None:
    task = _task(folder, streaming=streaming, buffer_size=50)
    stream = text_stream(task, 64, seed=1, rank=1, world_size=2)
    made = [stream.batch(i).clone() for i in range(5)]
    assert torch.equal(stream.batch(4), made[4])
    assert torch.equal(stream.batch(1), made[1])
    for workers in (0, 2):
        fed = batches(
            text_stream(task, 64, seed=1, rank=1, world_size=2), "cpu", PerfConfig(num_workers=workers), start=2
        )
        assert all(torch.equal(next(fed), made[i]) for i in (2, 3, 4))
        fed.close()
    assert not torch.equal(made[0], text_stream(task, 64, seed=1, rank=0, world_size=2).batch(0))


def test_the_same_order_in_every_pass_where_asked_for(folder: Path) -> None:
    for streaming in (False, True):
        task = _task(folder, streaming=streaming, shuffle_each_epoch=False)
        loader, _ = create_data_loader(task, 64)
        per_pass = sum(1 for _ in loader)
        loop = loop_data_loader(loader)
        made = [next(loop) for _ in range(per_pass + 1)]
        assert torch.equal(made[0], made[per_pass])


def test_the_evaluation_split_has_the_next_seed(folder: Path) -> None:
    task = _task(folder)
    loader, tokenizer = create_data_loader(task, 2, split="eval", global_seed=6)
    rows = read_rows(task, "test", tokenizer, seed=7)
    assert torch.equal(next(iter(loader)), TokenStream(rows, 2, 7).batch(0))


def test_loaders_that_cannot_be_made(folder: Path) -> None:
    with pytest.raises(DataError, match="num_workers=0"):
        create_data_loader(_task(folder), 2, prefetch_factor=2)
    with pytest.raises(DataError, match="fills at least one batch of 100000"):
        text_stream(_task(folder, streaming=True), 100_000).batch(0)
    with pytest.raises(DataError, match="a pass has at least one batch"):
        next(loop_data_loader(create_data_loader(_task(folder, streaming=True), 100_000)[0]))


# --- targets ----------------------------------------------------------------------------------------------------------

SITES = {"gpt2": "transformer.h.*.mlp.c_fc", "llama": "model.layers.*.mlp.down_proj"}
AUTO = "transformers.AutoModelForCausalLM"


def _config(folder: Path, name: str, *, backend: str = "inline", **settings: Any) -> Config:
    return Config(
        **{
            "module_info": (ModulePattern(module_pattern=SITES[name], C=8),),
            "ci": SharedMLPConfig(hidden_dims=(8,)),
            "output_loss_type": "kl",
            "loss_metrics": (
                FaithfulnessLoss(coeff=1.0),
                ImportanceMinimalityLoss(coeff=1e-3, pnorm=1.0),
                StochasticReconLoss(coeff=1.0),
                StochasticReconLayerwiseLoss(coeff=1.0),
            ),
            "lr_schedule": LrSchedule(start_val=1e-3),
            "steps": 2,
            "batch_size": 4,
            "task_config": _task(folder, name),
            "perf": PerfConfig(site_backend=backend),
            **settings,
        }
    )


def _model(target: Any, config: Config) -> Any:
    return build_model(target, config, output_attr="logits")


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_decomposed_language_model_computes_what_it_did(folder: Path, name: str) -> None:
    import transformers

    original = transformers.AutoModelForCausalLM.from_pretrained(folder / name).eval()
    task = build_lm_task(_config(folder, name))
    tokens = task.train.batch(0)
    assert tokens.shape == (4, SEQ)
    with torch.no_grad():
        expected = original(tokens).logits
    assert task.output_attr == "logits"
    for backend in BACKENDS:
        model = _model(load_hf_model(AUTO, str(folder / name)), _config(folder, name, backend=backend))
        assert len(model.target_module_paths) == 2
        with torch.no_grad():
            assert torch.equal(model(tokens), expected)
            assert torch.equal(model(tokens, cache_type="input").output, expected)
            ones, deltas = torch.ones(4, SEQ), model.calc_weight_deltas()
            masks = {site: ComponentsMaskInfo(None, "all", (deltas[site], ones)) for site in model.target_module_paths}
            torch.testing.assert_close(model(tokens, mask_infos=masks), expected, rtol=1e-4, atol=1e-5)
            alone = model(tokens, mask_infos={site: ComponentsMaskInfo(None) for site in masks})
            assert not torch.allclose(alone, expected, atol=1e-3)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_back_ends_train_a_language_model_alike(folder: Path, name: str) -> None:
    learned = {}
    for backend in BACKENDS:
        config = _config(folder, name, backend=backend)
        task = build_lm_task(config)
        trainer = Trainer(_model(task.target, config), config, SourceSampler(0))
        stream = batches(task.train, "cpu")
        first = trainer.step(stream)
        gradients = {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}
        second = trainer.step(stream)
        for result in (first, second):
            assert result.total.isfinite()
            assert len(result.losses) == 4
        assert not any(n.startswith("target_model") for n in gradients)
        assert all(g.isfinite().all() and g.any() for g in gradients.values())
        learned[backend] = (first, second, gradients)
    for backend in BACKENDS[1:]:
        for one, other in zip(learned[BACKENDS[0]][:2], learned[backend][:2], strict=True):
            torch.testing.assert_close(one.losses, other.losses, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(learned[BACKENDS[0]][2], learned[backend][2], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_run_that_is_resumed_ends_as_if_it_had_not_stopped(folder: Path, streaming: bool, tmp_path: Path) -> None:
    config = _config(
        folder, "gpt2", steps=3, save_freq=2, n_eval_steps=1, gradient_accumulation_steps=2,
        task_config=_task(folder, streaming=streaming, buffer_size=50),
    )  # fmt: skip
    whole = decompose(config, tmp_path / "whole", "cpu")
    assert whole.trainer.step_count == 3
    stopped = tmp_path / "stopped" / "checkpoints"
    stopped.mkdir(parents=True)
    name = "step_00000002.safetensors"
    (stopped / name).write_bytes((tmp_path / "whole" / "checkpoints" / name).read_bytes())
    elsewhere = config.model_copy(update={"perf": PerfConfig(site_backend="inline", num_workers=1)})
    resumed = decompose(elsewhere, tmp_path / "stopped", "cpu", resume=True)
    learned = [dict(result.trainer.model.named_parameters()) for result in (whole, resumed)]
    assert all(torch.equal(value, learned[1][name]) for name, value in learned[0].items())
    assert whole.evaluation.numbers == resumed.evaluation.numbers


def test_an_identity_before_an_mlp_of_a_language_model(folder: Path) -> None:
    pattern = "transformer.h.*.mlp.c_fc"
    for backend in BACKENDS:
        config = _config(
            folder, "gpt2", backend=backend, identity_module_patterns=(pattern,),
            module_info=(ModulePattern(module_pattern="*.pre_identity", C=8),),
        )  # fmt: skip
        target = load_hf_model(AUTO, str(folder / "gpt2"))
        tokens = torch.arange(12).view(2, 6)
        with torch.no_grad():
            expected = target(tokens).logits
            model = _model(target, config)
            assert model.target_module_paths == [f"transformer.h.{i}.mlp.c_fc.pre_identity" for i in (0, 1)]
            torch.testing.assert_close(model(tokens), expected)
            deltas = model.calc_weight_deltas()
            assert deltas["transformer.h.0.mlp.c_fc.pre_identity"].shape == (32, 32)
            for d, equal in ((1.0, True), (0.0, False)):
                masks = {
                    site: ComponentsMaskInfo(None, "all", (delta, torch.full((2, 6), d)))
                    for site, delta in deltas.items()
                }
                found = model(tokens, mask_infos=masks)
                assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5) == equal


def test_an_embedding_is_decomposed_and_the_head_that_shares_its_weight_stays(folder: Path) -> None:
    tokens = torch.arange(12).view(2, 6)
    for backend in BACKENDS:
        target: Any = load_hf_model(AUTO, str(folder / "gpt2"))
        assert target.lm_head.weight is target.transformer.wte.weight
        hidden: list[torch.Tensor] = []
        target.lm_head.register_forward_pre_hook(lambda _, args, hidden=hidden: hidden.append(args[0]))
        config = _config(
            folder, "gpt2", backend=backend, ci=MLPConfig(hidden_dims=(4,)),
            module_info=(ModulePattern(module_pattern="transformer.wte", C=8),),
        )  # fmt: skip
        model = _model(target, config)
        with torch.no_grad():
            expected = model(tokens)
            found = model(tokens, mask_infos={"transformer.wte": ComponentsMaskInfo(None)})
            assert not torch.allclose(found, expected, atol=1e-3)
            # The head is the frozen weight still, over whatever reaches it.
            torch.testing.assert_close(found, hidden[-1] @ target.transformer.wte.weight.T)
            delta = model.calc_weight_deltas()["transformer.wte"]
            whole = model(
                tokens, mask_infos={"transformer.wte": ComponentsMaskInfo(None, "all", (delta, torch.ones(2, 6)))}
            )
            torch.testing.assert_close(whole, expected, rtol=1e-4, atol=1e-5)


def test_ranks_and_microbatches_part_a_batch(folder: Path) -> None:
    config = _config(folder, "gpt2", batch_size=8, gradient_accumulation_steps=2, eval_batch_size=6)
    alone = build_lm_task(config.model_copy(update={"gradient_accumulation_steps": 1}))
    parts = [build_lm_task(config, rank=rank, world_size=2) for rank in (0, 1)]
    assert [part.train.batch(0).shape[0] for part in parts] == [2, 2]
    assert [part.eval.batch(0).shape[0] for part in parts] == [3, 3]
    # Microbatches 0 and 1 of both ranks together are the one batch.
    together = torch.cat([part.train.batch(i) for i in (0, 1) for part in parts])
    assert torch.equal(together, alone.train.batch(0))
    with pytest.raises(ConfigError, match="is 8, to be shared by 3"):
        build_lm_task(config.model_copy(update={"gradient_accumulation_steps": 1}), world_size=3)
    with pytest.raises(ConfigError, match="got 'tms'"):
        build_lm_task(config.model_copy(update={"task_config": TMSTask(target="tms_5-2")}))


@pytest.mark.parametrize(
    ("class_path", "name", "message"),
    [
        ("transformers.NoSuchModel", "gpt2", "import path of a class"),
        ("torch.nn.Linear", "gpt2", "import path of a class"),
        ("nowhere.Model", "gpt2", "import path of a class"),
        (AUTO, "nowhere", "gave no model"),
        ("transformers.GPT2Config", "gpt2", "gave a GPT2Config"),
    ],
)
def test_targets_that_cannot_be_loaded(folder: Path, class_path: str, name: str, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        load_hf_model(class_path, str(folder / name))
