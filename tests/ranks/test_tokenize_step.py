"""The tokenize step of ``examples/``, with a tokenizer of transformers that is built here, and the training script around it."""

import csv
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from step37_template import (
    CHAT_TEMPLATE,
    IMAGE_TOKENS,
    TURN_TOKENS,
    ByteTokenizer,
    Step37Template,
    collate,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.utils.data import DataLoader, DistributedSampler
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from step37_flickr8k import Flickr8kSample, Step37Flickr8kDataset, prepare_flickr8k_samples
from step37_flickr8k.localhub import LocalHub
from tests.conftest import Draw
from tests.helpers.ranks import Ranks, torchrun

ROOT = Path(__file__).parents[2]
PHOTOGRAPHS = ROOT.parent / "shared" / "flickr8k"
PROMPT = "Describe the picture."
BOS = "<bos>"
THINKING = CHAT_TEMPLATE.replace(
    "{{ message.content }}",
    "{% if message.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ message.content }}",
)
CAPTIONS = [
    "A dog runs.",
    'Two "small" dogs, and a man\'s hat .',
    "Zwei Hunde 🐕 laufen über die Straße",
    "e",
    "im_end",
    "user",
    "assistant",
    "< 3 dogs",
]


def build_tokenizer(directory: Path, chat_template: str = CHAT_TEMPLATE, **more: Any) -> Path:
    """Train a small byte-level BPE with the layout's tokens and save it as transformers does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [BOS, *TURN_TOKENS, *IMAGE_TOKENS]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*CAPTIONS, PROMPT, "user\n", "assistant\n"], trainer)
    # Which the chat template has written
    begin = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), begin])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token="<|im_end|>",
        additional_special_tokens=special[1:],
        chat_template=chat_template,
        **more,
    )
    fast.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the directory of a tokenizer."""
    return build_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def load(directory: Path) -> Any:
    return AutoTokenizer.from_pretrained(directory, local_files_only=True)


@pytest.fixture(params=["transformers", "bytes"])
def tokenizer(request: pytest.FixtureRequest, directory: Path) -> Any:
    """Give a tokenizer of transformers, then the one that stands in for it."""
    return load(directory) if request.param == "transformers" else ByteTokenizer()


def read(tokenizer: Any, tokens: torch.Tensor) -> str:
    """Give the text that tokens stand for."""
    if not isinstance(tokenizer, ByteTokenizer):
        return str(tokenizer.decode(tokens.tolist(), clean_up_tokenization_spaces=False))
    special = dict(enumerate(tokenizer.all_special_tokens, 256))
    return b"".join(
        special[one].encode() if one in special else bytes([one]) for one in tokens.tolist()
    ).decode()


def dataset_of(tokenizer: Any, *captions: str) -> Step37Flickr8kDataset:
    samples = [
        Flickr8kSample(f"/cache/train/{number}.jpg", caption)
        for number, caption in enumerate(captions)
    ]
    return Step37Flickr8kDataset(samples, Step37Template(tokenizer), PROMPT)


# --- a sample -------------------------------------------------------------------------------------


def test_a_sample_is_this_sequence(tokenizer: Any) -> None:
    """Token by token: two turns, and in the user's an image of 169 patches between its two marks."""
    sample = dataset_of(tokenizer, "A dog runs.")[0]

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    (turn,), (over,), (start,), (patch,), (end,) = map(ids, (*TURN_TOKENS, *IMAGE_TOKENS))
    bos = [] if isinstance(tokenizer, ByteTokenizer) else [tokenizer.bos_token_id]
    user = [
        turn,
        *ids("user\n"),
        start,
        *169 * [patch],
        end,
        *ids("\nDescribe the picture."),
        over,
        *ids("\n"),
    ]
    assistant = [turn, *ids("assistant\n"), *ids("A dog runs."), over, *ids("\n")]
    assert sample["tokens"].tolist() == bos + user + assistant
    assert len({turn, over, start, patch, end}) == 5
    assert sample["image_paths"] == [("/cache/train/0.jpg", 0)]


def test_shapes_and_types_are_the_documented_ones(tokenizer: Any) -> None:
    """``tokens`` is int64 and ``loss_mask`` float32, both [T]."""
    sample = dataset_of(tokenizer, "A dog runs.")[0]
    assert (sample["tokens"].dtype, sample["loss_mask"].dtype) == (torch.int64, torch.float32)
    assert sample["tokens"].shape == sample["loss_mask"].shape == (len(sample["tokens"]),)


def test_tokens_are_those_of_the_tokenizers_own_chat_template(directory: Path) -> None:
    """What is trained on is what transformers itself makes of the dialog when the model is used."""
    tokenizer = load(directory)
    image = "<im_start>" + 169 * "<im_patch>" + "<im_end>"
    turns = [
        {"role": "user", "content": f"{image}\n{PROMPT}"},
        {"role": "assistant", "content": CAPTIONS[2]},
    ]
    expected = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True)["input_ids"]
    assert dataset_of(tokenizer, CAPTIONS[2])[0]["tokens"].tolist() == expected


@pytest.mark.parametrize("caption", CAPTIONS)
def test_the_loss_counts_the_assistants_turn_alone(tokenizer: Any, caption: str) -> None:
    """Read back, what counts is the caption and the end of its turn, and what doesn't is all before; whatever the caption is."""
    sample = dataset_of(tokenizer, caption)[0]
    counts = sample["loss_mask"] == 1
    assert read(tokenizer, sample["tokens"][counts]) == f"{caption}<|im_end|>\n"
    assert read(tokenizer, sample["tokens"][~counts]).endswith(
        f"<im_end>\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert set(sample["loss_mask"].tolist()) == {0.0, 1.0}


def test_what_a_chat_template_writes_before_the_caption_does_not_count(tmp_path: Path) -> None:
    """An empty thought, as reasoning models have it, is no part of what is learnt."""
    tokenizer = load(build_tokenizer(tmp_path, THINKING))
    sample = dataset_of(tokenizer, "A dog runs.")[0]
    assert read(tokenizer, sample["tokens"][sample["loss_mask"] == 1]) == "A dog runs.<|im_end|>\n"
    assert read(tokenizer, sample["tokens"]).endswith(
        "assistant\n<think>\n\n</think>\n\nA dog runs.<|im_end|>\n"
    )


def test_nothing_is_truncated(tmp_path: Path) -> None:
    """A tokenizer that was saved with a limit of its own gives all tokens; beyond ``model_max_length`` a sample is refused."""
    tokenizer = load(build_tokenizer(tmp_path, model_max_length=300))
    tokenizer.backend_tokenizer.enable_truncation(100)
    assert read(tokenizer, dataset_of(tokenizer, "A dog runs.")[0]["tokens"]).endswith(
        "A dog runs.<|im_end|>\n"
    )
    with pytest.raises(ValueError, match=r"/cache/train/0\.jpg.*model_max_length is 300"):
        dataset_of(tokenizer, "A dog runs." * 50)[0]


@pytest.mark.parametrize("spelt", ["<image>", "<im_patch>", "<|im_end|>"])
def test_a_caption_that_spells_a_special_token_is_refused(tokenizer: Any, spelt: str) -> None:
    """It would become another image, or the end of the turn, in silence."""
    with pytest.raises(ValueError, match=r"/cache/train/0\.jpg.* spells " + re.escape(spelt)):
        dataset_of(tokenizer, f"a sign that says {spelt}")[0]


def test_a_prompt_that_spells_a_special_token_is_refused(tokenizer: Any) -> None:
    """Its words would be another turn, or a part of the image."""
    dataset = Step37Flickr8kDataset(
        [Flickr8kSample("/a.jpg", "A dog.")], Step37Template(tokenizer), "Say <im_patch>."
    )
    with pytest.raises(ValueError, match=r"the prompt .* spells <im_patch>: change the prompt"):
        dataset[0]


def test_a_prompt_that_asks_for_a_second_image_is_refused(tokenizer: Any) -> None:
    """Each ``<image>`` stands for one picture of the dialog."""
    dataset = Step37Flickr8kDataset(
        [Flickr8kSample("/a.jpg", "A dog.")], Step37Template(tokenizer), "What is in <image>?"
    )
    with pytest.raises(ValueError, match="2 times <image> for 1 images"):
        dataset[0]


def test_a_tokenizer_of_another_layout_is_refused(tmp_path: Path) -> None:
    """Without the image's tokens a picture would be hundreds of pieces of words."""
    other = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    other.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=other, unk_token="<unk>", chat_template=CHAT_TEMPLATE
    ).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="doesn't have <im_start>, <im_patch>, <im_end> as tokens"):
        Step37Template(load(tmp_path))


def test_a_chat_template_that_changes_captions_is_refused(tmp_path: Path) -> None:
    """Where the caption can't be found, the loss can't be counted."""
    shouting = CHAT_TEMPLATE.replace(
        "message.content",
        "(message.content | upper if message.role == 'assistant' else message.content)",
    )
    dataset = dataset_of(
        load(build_tokenizer(tmp_path, shouting.replace("upper", "replace('dog', 'cat')"))),
        "A dog runs.",
    )
    with pytest.raises(ValueError, match=r"doesn't end with the caption as it is, 'A dog runs\.'"):
        dataset[0]


# --- a batch --------------------------------------------------------------------------------------


def test_a_batch_is_padded_to_its_longest(tokenizer: Any) -> None:
    """Tokens, mask and labels are int64 [B, T]; what is padding neither counts nor is looked at; pictures keep their order."""
    dataset = dataset_of(tokenizer, "A dog.", "A dog runs over the street.")
    short, long = dataset[0], dataset[1]
    batch = collate([short, long])
    size, pad = len(long["tokens"]), len(long["tokens"]) - len(short["tokens"])
    assert pad > 0
    assert {
        (value.dtype, value.shape) for name, value in batch.items() if name != "image_paths"
    } == {(torch.int64, (2, size))}
    assert batch["input_ids"][0].tolist() == short["tokens"].tolist() + pad * [0]
    assert batch["attention_mask"].tolist() == [(size - pad) * [1] + pad * [0], size * [1]]
    for row, sample in enumerate((short, long)):
        counts = batch["labels"][row] != -100
        assert counts.tolist() == sample["loss_mask"].bool().tolist() + (
            size - len(sample["tokens"])
        ) * [False]
        assert (
            batch["labels"][row][counts].tolist()
            == sample["tokens"][sample["loss_mask"] == 1].tolist()
        )
    assert batch["image_paths"] == [("/cache/train/0.jpg", 0), ("/cache/train/1.jpg", 0)]


def test_the_dataset_pickles(tokenizer: Any) -> None:
    """A copy, tokenizer included, gives the same samples: that is what workers get."""
    dataset = dataset_of(tokenizer, *CAPTIONS)
    copy = pickle.loads(pickle.dumps(dataset))
    assert len(copy) == len(CAPTIONS)
    for number in range(len(copy)):
        for name in ("tokens", "loss_mask"):
            assert torch.equal(dataset[number][name], copy[number][name])


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_give_what_the_process_itself_gives(directory: Path, context: str) -> None:
    """Two workers, forked or spawned, tokenize the same batches as none."""
    dataset: Any = dataset_of(load(directory), *CAPTIONS)
    alone = DataLoader(dataset, 3, collate_fn=collate)
    shared = DataLoader(
        dataset, 3, collate_fn=collate, num_workers=2, multiprocessing_context=context
    )
    for mine, theirs in zip(alone, shared, strict=True):
        assert mine["image_paths"] == theirs["image_paths"]
        assert all(
            torch.equal(mine[name], theirs[name])
            for name in ("input_ids", "attention_mask", "labels")
        )


@pytest.mark.parametrize("tokenizer", ["bytes"], indirect=True)
def test_step37s_preprocessing_can_use_a_sample(tokenizer: Any) -> None:
    """It calls ``int()`` on the type of each image path: 0 is a whole image, also when a spawned worker made the sample."""
    dataset: Any = dataset_of(tokenizer, *CAPTIONS)
    workers = {"num_workers": 2, "multiprocessing_context": "spawn"}
    samples = list(DataLoader(dataset, batch_size=None, **workers))
    assert len(samples) == len(CAPTIONS)
    for number, sample in enumerate(samples):
        assert [(path, int(kind)) for path, kind in sample["image_paths"]] == [
            (f"/cache/train/{number}.jpg", 0)
        ]
        assert all(type(kind) is int for _, kind in sample["image_paths"])
        assert all(
            torch.equal(sample[name], dataset[number][name]) for name in ("tokens", "loss_mask")
        )
    # torch's own collate makes tensors of the numbers, which int() takes too
    batch = next(iter(DataLoader(dataset, batch_size=1, **workers)))
    assert [int(kind) for _, kind in batch["image_paths"]] == [0]


# --- ranks ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """What a rank is asked for; ``context`` is how its two workers come to be, None for no workers."""

    cache: Path
    tokenizer: Path
    context: str | None


def batches_of(_: int, step: Step) -> tuple[int, list[dict[str, Any]]]:
    """Be a training rank: prepare, tokenize, and give the number of samples and this rank's batches."""
    samples = prepare_flickr8k_samples(sample_count=26, cache_dir=str(step.cache))
    dataset: Any = Step37Flickr8kDataset(samples, Step37Template(load(step.tokenizer)), PROMPT)
    workers = {"num_workers": 2, "multiprocessing_context": step.context} if step.context else {}
    return len(samples), list(
        DataLoader(dataset, 4, sampler=DistributedSampler(dataset), collate_fn=collate, **workers)
    )


@pytest.fixture
def pictures(
    request: pytest.FixtureRequest, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LocalHub]:
    """Serve drawn pictures or real photographs, and point the environment to them."""
    if request.param == "photographs" and not PHOTOGRAPHS.is_dir():
        pytest.skip(
            "the tokenize step over photographs: put a directory with train/metadata.csv at ../shared/flickr8k"
        )
    with LocalHub(draw(26) if request.param == "drawn" else PHOTOGRAPHS) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub


def captions_of(hub: LocalHub) -> dict[str, str]:
    with (hub.directory / "train" / "metadata.csv").open(encoding="utf-8", newline="") as lines:
        return {row["file_name"]: row["caption_0"].strip() for row in csv.DictReader(lines)}


@pytest.mark.parametrize(
    ("pictures", "context"),
    [("photographs", None), ("photographs", "fork"), ("photographs", "spawn"), ("drawn", "fork")],
    indirect=["pictures"],
)
def test_two_gloo_ranks_share_the_samples(
    pictures: LocalHub, cache: Path, tmp_path: Path, directory: Path, context: str | None
) -> None:
    """From a cold cache to batches: each picture on one rank, once, with its own caption; rank 0 alone has downloaded."""
    ranks = Ranks(2, tmp_path / "ranks", parents=True).start_group(
        batches_of, Step(cache, directory, context)
    )
    outcomes = ranks.outcomes()
    assert all(isinstance(outcome, tuple) for outcome in outcomes), outcomes
    assert [(total, len(batches)) for total, batches in outcomes] == [(26, 4), (26, 4)]
    tokenizer, captions, seen = load(directory), captions_of(pictures), []
    for batch in [batch for _, batches in outcomes for batch in batches]:
        rows = len(batch["image_paths"])
        width = int(batch["attention_mask"].sum(1).max())
        for name in ("input_ids", "attention_mask", "labels"):
            assert (batch[name].dtype, batch[name].shape) == (torch.int64, (rows, width))
        for (path, kind), labels, ids in zip(
            batch["image_paths"], batch["labels"], batch["input_ids"], strict=True
        ):
            assert kind == 0
            assert (
                read(tokenizer, labels[labels != -100])
                == captions[Path(path).name] + "<|im_end|>\n"
            )
            assert int((ids == tokenizer.convert_tokens_to_ids("<im_patch>")).sum()) == 169
            Image.open(path).load()
            seen.append(Path(path).name)
    assert sorted(seen) == sorted(list(captions)[:26])
    assert len(pictures.file_requests()) == 27


# --- the script -----------------------------------------------------------------------------------


def assert_trained(said: str, ranks: int, samples: int) -> None:
    """Each rank has named the samples, and each epoch has gone through all of them, shared evenly."""
    assert sorted(
        re.findall(rf"^rank (\d) of {ranks}: {samples} samples; '", said, re.MULTILINE)
    ) == [*map(str, range(ranks))], said
    for epoch in range(2):
        shares = re.findall(
            rf"^rank \d of {ranks}: epoch {epoch}: (\d+) samples, .* of them count",
            said,
            re.MULTILINE,
        )
        assert [*map(int, shares)] == ranks * [samples // ranks], said


def test_one_command_trains_on_two_ranks(hub: LocalHub, cache: Path, directory: Path) -> None:
    """The script under torchrun, as the README has it: from a cold cache, with a real tokenizer, each file downloaded once."""
    command = [*torchrun(2), "examples/train.py"]
    environment = os.environ | {
        "STEP37_CACHE_DIR": str(cache),
        "OMP_NUM_THREADS": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    done = subprocess.run(
        [*command, "--tokenizer", str(directory)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert_trained(done.stdout, ranks=2, samples=12)
    assert len(hub.file_requests()) == 13
    assert "TOKENIZERS_PARALLELISM" not in done.stderr


def test_the_script_needs_no_more_than_the_image_holds(hub: LocalHub, cache: Path) -> None:
    """Without transformers and numpy, as in the container image, bytes are the tokens."""
    hidden = "sys.modules |= {'numpy': None, 'transformers': None}; sys.argv = ['train.py']; sys.path[0] = 'examples'"
    environment = os.environ | {"STEP37_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-c",
        f"import runpy, sys; {hidden}; runpy.run_path('examples/train.py', run_name='__main__')",
    ]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert_trained(done.stdout, ranks=1, samples=12)
    assert hub.requests


def script(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the script as one process, without a launcher."""
    inherited = {name: value for name, value in os.environ.items() if name != "HF_ENDPOINT"}
    environment = inherited | {"OMP_NUM_THREADS": "1"} | variables
    command = [sys.executable, "examples/train.py", "--workers", "0", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False
    )


def test_the_script_takes_all_of_the_warmups_settings_file(
    hub: LocalHub, cache: Path, tmp_path: Path
) -> None:
    """The Hub's address, too: from a cold cache by that Hub, then from the warm one, which asks nobody."""
    file = tmp_path / "warmup.yaml"
    file.write_text(
        f"endpoint: {hub.endpoint}\ncache_dir: {cache}\nsample_count: 8\n", encoding="utf-8"
    )
    done = script("--settings", str(file))
    assert done.returncode == 0, done.stderr
    assert_trained(done.stdout, ranks=1, samples=8)
    asked = len(hub.requests)
    assert asked
    again = script("--settings", str(file))
    assert again.returncode == 0, again.stderr
    assert len(hub.requests) == asked


def test_the_script_ends_with_the_exit_codes_of_the_command(cache: Path) -> None:
    """What no retry mends is 2, in one line: a Job that fails on 2 isn't tried again."""
    missing = script("--settings", str(cache / "none.yaml"))
    empty = script(STEP37_CACHE_DIR=str(cache), STEP37_OFFLINE="true")
    directory = script("--tokenizer", str(cache / "none"), STEP37_CACHE_DIR=str(cache))
    assert [missing.returncode, empty.returncode, directory.returncode] == [2, 2, 2]
    assert missing.stderr.splitlines()[-1].startswith("error: settings file ")
    assert "Traceback" not in missing.stderr + empty.stderr + directory.stderr
    assert "is not a directory" in directory.stderr
