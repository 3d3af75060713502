"""Train projector and language model to answer questions about composed and drawn pictures; the tower stays as it is.

python -m recipes.vlm.answers
python -m recipes.vlm.answers --steps 20 --batch 8 --variants 2

Four questions about a picture are read at once, each behind the picture alone: none sees another or its answer.
"""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPVisionModel, LlavaForConditionalGeneration, LlavaProcessor

from recipes.emoji.compose import Composer, Scene, pack
from recipes.emoji.judges import disturb
from recipes.emoji.muon import Muon
from recipes.emoji.training import DEVICE, Run, stage, step_generator
from recipes.vlm import WORK
from recipes.vlm.language import CELLS, Question, new_model, new_processor, questions
from recipes.vlm.tower import Drawn, read, scene

ASKED = 4
"""Questions of a picture."""
LENGTH = 17
"""Most tokens of a question with its answer."""
SHARE_DRAWN = 0.5
"""Share of the pictures that the embedded model drew."""
LATER = ("embed_tokens.weight", "lm_head.weight")
"""Ends of the names of what AdamW trains although it is a matrix."""


def things_of(shown: Scene) -> list[int]:
    """The objects from left to right or top to bottom."""
    things = [item.thing for item in shown.items]
    return things[::-1] if shown.relation % 2 == 1 and len(things) == 2 else things


def tokens_of(processor: LlavaProcessor, asked: list[Question]) -> tuple[Tensor, Tensor]:
    """Tokens of questions with their answers (questions LENGTH), and the same where only answers are left, −100 elsewhere."""
    tokenizer = processor.tokenizer
    ids = torch.full((len(asked), LENGTH), int(tokenizer.pad_token_id))
    labels = torch.full((len(asked), LENGTH), -100)
    for row, question in enumerate(asked):
        before = tokenizer(f"{question.question}<answer>", add_special_tokens=False).input_ids
        after = tokenizer(f"{question.answer}</s>", add_special_tokens=False).input_ids
        both = torch.tensor(before + after)
        ids[row, : len(both)] = both
        labels[row, len(before) : len(both)] = both[len(before) :]
    return ids, labels


def layout() -> tuple[Tensor, Tensor]:
    """Positions (1 tokens) and what may be read (1 1 tokens tokens), 0 or −infinity, of a picture and the questions behind it."""
    prefix = 1 + CELLS
    block = torch.cat([torch.zeros(prefix), 1 + torch.arange(ASKED * LENGTH).div(LENGTH, rounding_mode="floor")])
    places = torch.cat([torch.arange(prefix), prefix + torch.arange(ASKED * LENGTH) % LENGTH])
    allowed = (block[None] == block[:, None]) | (block[None] == 0)
    allowed &= torch.ones_like(allowed).tril()
    return places[None], torch.where(allowed, 0.0, float("-inf"))[None, None]


def loss_of(
    model: LlavaForConditionalGeneration, cells: Tensor, ids: Tensor, labels: Tensor, shape: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Mean loss of the answers' tokens, and the share of answers all of whose tokens are right.

    Args:
        cells: the pictures' features (batch cells width).
        ids: of `ASKED` questions a picture (batch·ASKED LENGTH).
        labels: likewise.
        shape: of `layout`.
    """
    inner, batch = model.model, len(cells)
    embed = inner.language_model.get_input_embeddings()
    begin = embed(torch.full((batch, 1), int(model.config.text_config.bos_token_id)))
    words = embed(ids).unflatten(0, (batch, ASKED)).flatten(1, 2)
    states = torch.cat([begin, inner.multi_modal_projector(cells), words], 1)
    places, allowed = shape
    out = inner.language_model(
        inputs_embeds=states,
        position_ids=places.expand(batch, -1),
        attention_mask=allowed.expand(batch, -1, -1, -1),
        use_cache=False,
    ).last_hidden_state[:, 1 + CELLS :]
    logits = model.lm_head(out.reshape(batch * ASKED, LENGTH, -1)[:, :-1])
    wanted = labels[:, 1:]
    loss = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-100)
    right = ((logits.argmax(2) == wanted) | (wanted == -100)).all(1)
    return loss, right.unflatten(0, (batch, ASKED)).float().mean(0)


def main() -> None:
    """Write `model/`, a folder that transformers reads."""
    options = stage(
        __doc__ or "", work=WORK, steps=650, batch=24, lr=2e-3, seed=0, variants=40, processes=1, seconds=None
    )
    torch.manual_seed(options.seed)
    composer = Composer(options.work, DEVICE, options.variants, options.processes)
    processor, beside = new_processor(), Drawn(options.work)
    model = new_model(CLIPVisionModel.from_pretrained(options.work / "tower"), processor)
    trained = [model.model.multi_modal_projector, model.model.language_model]
    optimiser = Muon(trained, options.lr, outer=LATER)
    run = Run(options.work / "answers-run", {"projector": trained[0], "language": trained[1]}, optimiser, decay=0.99)
    shape, few = layout(), round(SHARE_DRAWN * options.batch)
    for step in run.steps(options.steps, options.lr, hold=0.4, seconds=options.seconds):
        rng, generator = random.Random(options.seed * 1_000_003 + step + 1), step_generator(options.seed, step)
        scenes = [scene(rng, options.variants) for _ in range(options.batch - few)]
        pictures = disturb(composer(composer.to_device(pack(scenes))), generator)
        drawn, thing, style = beside.batch(rng, few)
        asked = [question for shown in scenes for question in questions(things_of(shown), shown.style, rng)]
        for one, hand in zip(thing.tolist(), style.tolist(), strict=True):
            asked += questions([one], hand, rng)
        with torch.no_grad():
            cells = read(model.model.vision_tower, torch.cat([pictures, drawn]))[:, 1:]
        loss, right = loss_of(model, cells, *tokens_of(processor, asked), shape)
        run.descend(loss)
        run.log(25, loss=loss.item(), name=right[0].item(), style=right[1].item(), presence=right[2:].mean().item())
    run.load_averaged()
    model.save_pretrained(options.work / "model")
    processor.save_pretrained(options.work / "model")


if __name__ == "__main__":
    main()
