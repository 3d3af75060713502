"""Teach a CLIP text encoder English: a sentence encoder is its teacher, text alone its lesson.

    python -m recipes.emoji.text
    python -m recipes.emoji.text --steps 20

The state of the end token learns the teacher's sentence vector, and to tell sentences of a batch apart as the teacher does;
the state of every word's last token learns the teacher's states of that word, as far as the words before it tell.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import BertConfig, BertModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer, PreTrainedTokenizerFast

from recipes.emoji.corpus import LENGTH
from recipes.emoji.muon import Muon
from recipes.emoji.training import DEVICE, Run, autocast, replace_folder, stage, step_generator
from recipes.emoji.words import OBJECTS, article

WIDTH = 256
"""Width of the text states."""
TEACHER_WIDTH = 384
TEMPERATURE = 0.05


class Teacher(nn.Module):
    """all-MiniLM-L6-v2: states of tokens, and their mean as the sentence's vector."""

    def __init__(self, folder: Path):
        super().__init__()
        tensors = load_file(folder / "weights.safetensors")
        table = tensors.pop("table").float() * tensors.pop("scale")
        self.bert = BertModel(BertConfig.from_pretrained(folder), add_pooling_layer=False)
        missing = self.bert.load_state_dict(
            {k: v.float() for k, v in tensors.items()} | {"embeddings.word_embeddings.weight": table}, strict=False
        )
        assert not [k for k in missing.missing_keys if "position_ids" not in k], missing.missing_keys
        self.eval().requires_grad_(False)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """States (batch tokens 384) and unit sentence vectors (batch 384); ids are padded with 0."""
        mask = ids != 0
        states = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return states, F.normalize(mean, dim=1)


def teacher_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The teacher's WordPiece tokenizer."""
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), pad_token="[PAD]")


class Lesson(NamedTuple):
    """Sentences as both read them."""

    student: Tensor
    """Token ids (sentences 40), padded with the end token."""
    student_word: Tensor
    """Which word each of these tokens ends (sentences 40); −1 where it ends none."""
    teacher: Tensor
    """Token ids (sentences 40), padded with 0."""
    teacher_word: Tensor
    """Which word each of those belongs to (sentences 40); −1 for none."""


def _read(work: Path, sentences: list[str]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    own, other = CLIPTokenizer.from_pretrained(work / "tokenizer"), teacher_tokenizer(work / "teacher")
    words = [s.lower().split() for s in sentences]
    settings = {"is_split_into_words": True, "padding": "max_length", "truncation": True, "max_length": LENGTH}
    mine, theirs = own(words, **settings), other(words, **settings)
    ends = torch.full((len(words), LENGTH), -1, dtype=torch.int8)
    belongs = torch.full((len(words), LENGTH), -1, dtype=torch.int8)
    for i in range(len(words)):
        numbers, others = mine.word_ids(i), theirs.word_ids(i)
        for t, number in enumerate(numbers):
            if number is not None and (t + 1 == LENGTH or numbers[t + 1] != number):
                ends[i, t] = number
        belongs[i] = torch.tensor([-1 if n is None else n for n in others], dtype=torch.int8)
    ids = [torch.tensor(x.input_ids, dtype=torch.int16) for x in (mine, theirs)]
    return ids[0], ends, ids[1], belongs


def read_corpus(work: Path, processes: int) -> Lesson:
    """The whole corpus, tokenised by several processes."""
    sentences = (work / "corpus.txt").read_text().splitlines()
    parts = [sentences[i : i + 8000] for i in range(0, len(sentences), 8000)]
    with ProcessPoolExecutor(processes) as pool:
        read = list(pool.map(partial(_read, work), parts))
    return Lesson(*(torch.cat(tensors) for tensors in zip(*read, strict=True)))


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained CLIP text model of four layers: 5.3 M weights."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=4,
            num_attention_heads=4, max_position_embeddings=LENGTH, projection_dim=WIDTH,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip


class Heads(nn.Module):
    """From the student's states to the teacher's; not kept."""

    def __init__(self):
        super().__init__()
        self.sentence, self.word = nn.Linear(WIDTH, TEACHER_WIDTH), nn.Linear(WIDTH, TEACHER_WIDTH)


def loss_of(student: nn.Module, heads: Heads, teacher: Teacher, lesson: Lesson) -> tuple[Tensor, Tensor, Tensor]:
    """Distance of sentence vectors, cross-entropy of telling sentences apart, distance of words."""
    with torch.no_grad(), autocast():
        states, sentence = teacher(lesson.teacher)
    with autocast():
        output = student(lesson.student)
    own = F.normalize(heads.sentence(output.pooler_output.float()), dim=1)
    near = 1 - (own * sentence).sum(1).mean()
    wanted = (sentence @ sentence.T / TEMPERATURE).softmax(1)
    apart = F.cross_entropy(own @ sentence.T / TEMPERATURE, wanted)
    # The teacher's states of each word, averaged over its pieces, where the student's token ends that word.
    same = (lesson.student_word[:, :, None] == lesson.teacher_word[:, None]) & (lesson.student_word >= 0)[:, :, None]
    wanted_words = F.normalize((same.float() @ states), dim=2)
    words = F.normalize(heads.word(output.last_hidden_state.float()), dim=2)
    mask = same.any(2)
    word = (1 - (words * wanted_words).sum(2))[mask].mean()
    return near, apart, word


@torch.no_grad()
def nearest_objects(encode: object) -> dict[str, float]:
    """Share of held-out words of the benchmark's objects whose nearest object is theirs, by an encoder of sentences.

    An object is the mean of its name, training synonyms and training descriptions.
    """
    centres = torch.stack([
        encode([article(o.name), *map(article, o.train_synonyms), *o.train_descriptions]).mean(0) for o in OBJECTS  # type: ignore[operator]
    ])  # fmt: skip
    centres, figures = F.normalize(centres, dim=1), {}
    for kind in ("synonyms", "descriptions"):
        texts = [(i, t) for i, o in enumerate(OBJECTS[:20]) for t in getattr(o, f"heldout_{kind}")]
        vectors = encode([article(t) if kind == "synonyms" else t for _, t in texts])  # type: ignore[operator]
        right = (vectors @ centres.T).argmax(1).cpu() == torch.tensor([i for i, _ in texts])
        figures[kind] = right.float().mean().item()
    return figures


def main() -> None:
    """Train, or go on training, and write `text_encoder/`."""
    options = stage(__doc__ or "", steps=9000, batch=512, lr=1e-3, seed=0, seconds=None, processes=2, start="")
    torch.manual_seed(options.seed)
    tokenizer = CLIPTokenizer.from_pretrained(options.work / "tokenizer")
    corpus = read_corpus(options.work, options.processes)  # before the device is touched: other processes read
    corpus = Lesson(*(t.to(DEVICE) for t in corpus))
    student, heads = new_text_encoder(tokenizer).to(DEVICE), Heads().to(DEVICE)
    teacher = Teacher(options.work / "teacher").to(DEVICE)
    if options.start:
        student.load_state_dict(load_file(Path(options.start) / "model.safetensors"))
    optimiser = Muon([student, heads], options.lr, betas=(0.9, 0.98))
    # Names alone and short captions are read three times as often as definitions.
    short = (corpus.student_word >= 0).sum(1) <= 4
    weights = torch.where(short, 3.0, 1.0).cumsum(0)
    run = Run(options.work / "text-run", {"student": student, "heads": heads}, optimiser, decay=0.999)
    for step in run.steps(options.steps, options.lr, hold=0.4, seconds=options.seconds):
        draws = torch.rand(options.batch, generator=step_generator(options.seed, step)).to(DEVICE)
        chosen = torch.searchsorted(weights, draws * weights[-1]).clamp(max=len(weights) - 1)
        lesson = Lesson(*(t[chosen].long() for t in corpus))
        near, apart, word = loss_of(student, heads, teacher, lesson)
        run.descend(near + 0.5 * apart + word)
        run.log(100, near=near.item(), apart=apart.item(), word=word.item())
    run.load_averaged()
    student.save_pretrained(options.work / "text_encoder.partial")
    replace_folder(options.work / "text_encoder.partial", options.work / "text_encoder")
    theirs = teacher_tokenizer(options.work / "teacher")

    def by_student(texts: list[str]) -> Tensor:
        ids = tokenizer(texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt").input_ids
        return F.normalize(heads.sentence(student(ids.to(DEVICE)).pooler_output.float()), dim=1)

    def by_teacher(texts: list[str]) -> Tensor:
        return teacher(theirs(texts, padding=True, return_tensors="pt").input_ids.to(DEVICE))[1]

    for name, encode in (("teacher", by_teacher), ("student", by_student)):
        figures = nearest_objects(encode)
        print(name, " ".join(f"{kind} {share:.1%}" for kind, share in figures.items()), flush=True)


if __name__ == "__main__":
    main()
