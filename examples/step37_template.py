"""The tokenize step in the layout of Step3.7: a template for `Step37Flickr8kDataset`, and how its samples become a batch."""

import re
from collections.abc import Sequence
from typing import Any

import jinja2
import torch
from torch.nn.utils.rnn import pad_sequence

from step37_flickr8k import MultimodalSFTSample

PLACEHOLDER = "<image>"
PATCHES = 169  # of an image: 13 x 13
IMAGE = "<im_start>" + PATCHES * "<im_patch>" + "<im_end>"
IMAGE_TOKENS = ("<im_start>", "<im_patch>", "<im_end>")
TURN_TOKENS = ("<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
IGNORED = -100  # the label that torch's and transformers' losses leave out
# The type of an image path in Step3.7's preprocessing, which calls int() on it; 1 would be a patch.
WHOLE_IMAGE = 0


class Step37Template:
    """Tokenizes a dialog: each ``<image>`` becomes 171 tokens, and the loss counts the assistant's turn alone."""

    def __init__(self, tokenizer: Any) -> None:
        """Take a fast tokenizer of transformers, which says what the layout's chat template and tokens are.

        Raises ValueError where a token of an image isn't one token to it.
        """
        if len(tokenizer(IMAGE, add_special_tokens=False)["input_ids"]) != PATCHES + 2:
            raise ValueError(
                f"the tokenizer doesn't have {', '.join(IMAGE_TOKENS)} as tokens: it isn't one of Step3.7's layout"
            )
        self._tokenizer = tokenizer
        self._reserved = {PLACEHOLDER, *IMAGE_TOKENS, *tokenizer.all_special_tokens}
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": PLACEHOLDER}]
        # What stands behind an answer: the end of its turn
        self._end = self._written(turns).rpartition(PLACEHOLDER)[2]

    def __call__(self, dialog: dict[str, Any], /) -> MultimodalSFTSample:
        """Give ``tokens`` (int64, [T]), ``loss_mask`` (float32, [T], 1 for the caption and the end of its turn), ``image_paths``.

        Raises ValueError, never truncates: a dialog that is too long has lost its caption's end, or
        a part of its image.
        """
        *asked, answer = dialog["conversations"]
        self._check(dialog["images"], asked, answer["content"])
        text = self._written(
            [{**turn, "content": turn["content"].replace(PLACEHOLDER, IMAGE)} for turn in asked]
            + [answer]
        )
        if not text.endswith(counted := answer["content"] + self._end):
            raise ValueError(
                f"the chat template doesn't end with the caption as it is, {answer['content']!r}, and {self._end!r}"
            )
        first = len(text) - len(counted)
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        tokens, most = encoded["input_ids"], self._tokenizer.model_max_length
        if len(tokens) > most:
            raise ValueError(
                f"{dialog['images']}: {len(tokens)} tokens, but model_max_length is {most}: leave the sample out"
            )
        return {
            "tokens": torch.tensor(tokens, dtype=torch.int64),
            "loss_mask": torch.tensor(
                [begin >= first for begin, _ in encoded["offset_mapping"]], dtype=torch.float32
            ),
            "image_paths": [(path, WHOLE_IMAGE) for path in dialog["images"]],
        }

    def _written(self, turns: list[dict[str, str]]) -> str:
        return str(self._tokenizer.apply_chat_template(turns, tokenize=False))

    def _check(self, images: list[str], asked: list[dict[str, str]], caption: str) -> None:
        """Refuse what would put special tokens where they don't belong."""
        if found := sorted(token for token in self._reserved if token in caption):
            raise ValueError(
                f"{images}: the caption {caption!r} spells {', '.join(found)}: leave the sample out"
            )
        prompt = "\n".join(turn["content"] for turn in asked)
        if found := sorted(token for token in self._reserved - {PLACEHOLDER} if token in prompt):
            raise ValueError(f"the prompt {prompt!r} spells {', '.join(found)}: choose other words")
        places = prompt.count(PLACEHOLDER)
        if places != len(images):
            raise ValueError(
                f"{images}: {places} times {PLACEHOLDER} for {len(images)} images: take it out of the prompt"
            )


def collate(samples: Sequence[MultimodalSFTSample]) -> dict[str, Any]:
    """Make a batch of B samples, padded on the right to the longest, T: what a model of transformers takes.

    ``input_ids``, ``attention_mask`` and ``labels`` are int64, [B, T]; padding is 0, 0 and -100.
    ``labels`` are the tokens where ``loss_mask`` is 1, else -100, and not shifted. ``image_paths``
    has the (path, type) pairs in the order of the ``<im_start>``, type 0 for a whole image.
    """
    tokens = [sample["tokens"] for sample in samples]
    labels = [sample["tokens"].masked_fill(sample["loss_mask"] == 0, IGNORED) for sample in samples]
    return {
        "input_ids": pad_sequence(tokens, batch_first=True),
        "attention_mask": pad_sequence(
            [torch.ones_like(each) for each in tokens], batch_first=True
        ),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
        "image_paths": [pair for sample in samples for pair in sample["image_paths"]],
    }


class ByteTokenizer:
    """Stands in for a tokenizer of transformers where there is none: each byte is a token, behind them come the special ones."""

    all_special_tokens = (*TURN_TOKENS, *IMAGE_TOKENS)
    model_max_length = 4096
    _chat = jinja2.Template(CHAT_TEMPLATE)

    def __len__(self) -> int:
        """Give the number of tokens."""
        return 256 + len(self.all_special_tokens)

    def apply_chat_template(self, turns: list[dict[str, str]], **_: bool) -> str:
        """Write a dialog as text."""
        return str(self._chat.render(messages=turns))

    def __call__(self, text: str, **_: bool) -> dict[str, Any]:
        """Give each token's number and its place in the text."""
        ids: list[int] = []
        places: list[tuple[int, int]] = []
        for piece in re.finditer(
            "|".join(map(re.escape, self.all_special_tokens)) + "|.", text, re.DOTALL
        ):
            special = piece[0] in self.all_special_tokens
            these = (
                [256 + self.all_special_tokens.index(piece[0])]
                if special
                else list(piece[0].encode())
            )
            ids += these
            places += [piece.span()] * len(these)
        return {"input_ids": ids, "offset_mapping": places}
