"""CLIP's byte-pair encoding with the names and the answers of transformers' class, on the library that this is a shell of.

Importing that class takes longer than an erasure; this one reads the files that pipelines of Stable Diffusion bring.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from torch import Tensor

PIECES = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""What texts are cut into before pairs are merged: special tokens, endings, words, single digits, runs of other signs."""
SPECIAL = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>",
           "pad_token": "<|endoftext|>"}  # fmt: skip
"""Tokens of a special meaning, where the files name no others; what a later one says of a token counts."""
KNOWN = {*SPECIAL, "model_max_length", "tokenizer_class", "name_or_path", "special_tokens_map_file", "errors",
         "add_prefix_space", "do_lower_case", "clean_up_tokenization_spaces", "backend"}  # fmt: skip
"""Entries of a tokenizer's configuration that are read here, or that change nothing of how this class reads texts."""


class Tokens(NamedTuple):
    """Texts as tokens."""

    input_ids: Any
    """Ids: a list for one text, a tensor (batch tokens) for several."""
    attention_mask: Any
    """1 where a token belongs to the text, its begin and first end token included; shaped alike."""


class ClipTokens:
    """A tokenizer.

    Args:
        folder: with `vocab.json`, `merges.txt` and the configuration.

    Raises:
        ValueError: the folder says more than this class reads, such as tokens added to the vocabulary.
        OSError: a file is missing.
    """

    def __init__(self, folder: Path):
        more = [name for name in ("tokenizer.json", "added_tokens.json") if (folder / name).exists()]
        config = _json(folder / "tokenizer_config.json")
        if more or not set(config) <= KNOWN:
            raise ValueError(f"{folder} holds a tokenizer with additions")
        named = _json(folder / "special_tokens_map.json") if (folder / "special_tokens_map.json").exists() else {}
        special = {name: _token(named.get(name, config.get(name, usual))) for name, usual in SPECIAL.items()}
        vocabulary = _json(folder / "vocab.json")
        if set(named) - set(SPECIAL) or any(token.content not in vocabulary for token in special.values()):
            raise ValueError(f"{folder} holds a tokenizer with additions")
        self.model_max_length = int(config["model_max_length"])
        self.bos_token_id, self.eos_token_id, self.unk_token_id, self.pad_token_id = (
            int(vocabulary[token.content]) for token in special.values()
        )
        self._padding = special["pad_token"].content
        self.backend_tokenizer = _backend(vocabulary, _merges(folder / "merges.txt"), special)

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size()

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        padding: str | bool = False,
        max_length: int | None = None,
        truncation: bool = False,
        add_special_tokens: bool = True,
        return_tensors: str | None = None,
    ) -> Tokens:
        """Tokens of one text or several; options as of transformers, `padding` to `max_length` or not at all."""
        backend = self.backend_tokenizer
        if truncation:
            backend.enable_truncation(max_length or self.model_max_length)
        else:
            backend.no_truncation()
        if padding:
            backend.enable_padding(pad_id=self.pad_token_id, pad_token=self._padding, length=max_length)
        else:
            backend.no_padding()
        if isinstance(text, str):
            one = backend.encode(text, add_special_tokens=add_special_tokens)
            return Tokens(one.ids, one.attention_mask)
        many = backend.encode_batch(list(text), add_special_tokens=add_special_tokens)
        ids, masks = [one.ids for one in many], [one.attention_mask for one in many]
        return Tokens(ids, masks) if return_tensors is None else Tokens(torch.tensor(ids), torch.tensor(masks))

    def get_vocab(self) -> dict[str, int]:
        """Token -> its id."""
        return self.backend_tokenizer.get_vocab()

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """The text of some tokens."""
        text = self.backend_tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)
        return text.replace("</w>", " ").strip()


def _backend(
    vocabulary: Mapping[str, int], merges: list[tuple[str, str]], special: Mapping[str, AddedToken]
) -> Tokenizer:
    """The steps from a text to ids."""
    pairs = BPE(
        vocab=dict(vocabulary),
        merges=merges,
        continuing_subword_prefix="",
        end_of_word_suffix="</w>",
        fuse_unk=False,
        unk_token=special["unk_token"].content,
    )
    backend = Tokenizer(pairs)
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    cut = pre_tokenizers.Split(Regex(PIECES), behavior="removed", invert=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    backend.decoder = decoders.ByteLevel()
    added = {token.content: token for token in special.values()}
    backend.add_special_tokens([added[content] for content in sorted(added, key=lambda content: vocabulary[content])])
    end, begin = special["eos_token"].content, special["bos_token"].content
    backend.post_processor = processors.RobertaProcessing(
        (end, vocabulary[end]), (begin, vocabulary[begin]), trim_offsets=False, add_prefix_space=False
    )
    return backend


def _merges(file: Path) -> list[tuple[str, str]]:
    """Pairs, those that are merged first before others."""
    lines = file.read_text(encoding="utf-8").splitlines()
    pairs = [line.split() for line in lines if line and not line.startswith("#version")]
    return [(first, second) for first, second in pairs]


def _token(given: Any) -> AddedToken:
    """A special token, given as its text or with flags."""
    flags: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {"content": given, "normalized": False}
    names = ("single_word", "lstrip", "rstrip", "normalized")
    return AddedToken(flags["content"], special=True, **{name: flags[name] for name in names if name in flags})


def _json(file: Path) -> dict[str, Any]:
    """An object in a file."""
    found = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{file} holds no object")
    return found
