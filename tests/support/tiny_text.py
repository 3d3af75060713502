"""Tiny tokenizers and text encoders of every kind, with random weights: real transformers classes, no downloads."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

import tiny

CHARACTERS = [chr(i) for i in range(33, 127)]
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for part in m['content'] %}{{ part['text'] }}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def shaken(module: Any, scale: float = 1.0) -> Any:
    """A network with weights large enough that words differ and nothing stays zero."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                fan = parameter[0].numel()
                parameter.normal_(std=scale * (1.0 if "embed" in name and fan < 64 else fan**-0.5))
            elif "norm" not in name:
                parameter.normal_(std=0.1)
    return module.eval()


def t5_tokenizer() -> T5Tokenizer:
    """Words and single letters, each with the mark of a word's beginning or without."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -5.0)]
    pieces += [(f"▁{word}", -1.0) for word in tiny.WORDS] + [(c, -10.0) for c in CHARACTERS]
    return T5Tokenizer(vocab=pieces, extra_ids=0)


def t5(width: int) -> T5EncoderModel:
    """T5's encoder, two layers."""
    config = T5Config(
        vocab_size=len(t5_tokenizer()), d_model=width, d_kv=8, d_ff=2 * width, num_layers=2, num_heads=2,
        feed_forward_proj="gated-gelu", is_encoder_decoder=False,
    )  # fmt: skip
    return shaken(T5EncoderModel(config))


def bert_tokenizer() -> BertTokenizer:
    """Words, letters and letters within words."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *tiny.WORDS, *CHARACTERS, *(f"##{c}" for c in CHARACTERS)]
    return BertTokenizer(vocab={token: i for i, token in enumerate(dict.fromkeys(tokens))})


def bert(width: int) -> BertModel:
    """BERT, two layers."""
    config = BertConfig(
        vocab_size=len(bert_tokenizer()), hidden_size=width, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=2 * width, max_position_embeddings=96,
    )  # fmt: skip
    return shaken(BertModel(config))


def _merged(words: list[str], alphabet: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """The alphabet with every beginning of the words, and the merges that build them."""
    tokens, merges = list(alphabet), []
    for word in words:
        for end in range(2, len(word) + 1):
            merges.append((word[: end - 1], word[end - 1]))
            tokens.append(word[:end])
    return list(dict.fromkeys(tokens)), list(dict.fromkeys(merges))


def gemma_tokenizer() -> GemmaTokenizer:
    """Words behind the mark of a space; other letters alone."""
    words = [f"▁{word}" for word in tiny.WORDS]
    tokens, merges = _merged(words, ["▁", "\n", *CHARACTERS])
    vocab = {token: i for i, token in enumerate(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *tokens])}
    return GemmaTokenizer(vocab=vocab, merges=merges)


def gemma(width: int) -> Gemma2Model:
    """Gemma 2, two layers."""
    config = Gemma2Config(
        vocab_size=len(gemma_tokenizer()), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, max_position_embeddings=4096,
    )  # fmt: skip
    return shaken(Gemma2Model(config))


def qwen_tokenizer(side: str = "right") -> Qwen2Tokenizer:
    """Bytes, words with and without a space before them, and the marks of a chat."""
    words = [form for word in tiny.WORDS for form in (f"Ġ{word}", word)]
    tokens, merges = _merged(words, sorted(pre_tokenizers.ByteLevel.alphabet()))
    vocab = {token: i for i, token in enumerate(["<|endoftext|>", *tokens])}
    found = Qwen2Tokenizer(vocab=vocab, merges=merges, padding_side=side)
    found.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    found.chat_template = CHAT
    return found


def language_sizes(width: int, layers: int) -> dict[str, Any]:
    """Configuration of a decoder-only language model."""
    return {
        "vocab_size": len(qwen_tokenizer()), "hidden_size": width, "intermediate_size": 2 * width,
        "num_hidden_layers": layers, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
        "max_position_embeddings": 4096, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0,
    }  # fmt: skip


def qwen3(width: int, layers: int = 2) -> Qwen3ForCausalLM:
    """Qwen 3."""
    return shaken(Qwen3ForCausalLM(Qwen3Config(**language_sizes(width, layers), tie_word_embeddings=True)))


def qwen_vl(width: int) -> Any:
    """Qwen 2.5 VL, two layers and a vision tower of one."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    sizes = {name: value for name, value in language_sizes(width, 2).items() if name != "head_dim"}
    text = sizes | {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": width}
    return shaken(Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision)))


def mistral3(width: int, layers: int) -> Any:
    """Mistral 3 with a vision tower of one layer."""
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    text = {"model_type": "mistral"} | language_sizes(width, layers)
    vision = {
        "model_type": "pixtral", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    return shaken(Mistral3ForConditionalGeneration(Mistral3Config(text_config=text, vision_config=vision)))
