"""What the tests of protocols share: files of prompts, runs on a tiny pipeline, and counts without any bookkeeping."""

from __future__ import annotations

import json
from contextlib import nullcontext

import numpy as np

import efface
from efface.bench.protocols.base import Drawing, load_erasures
from efface.bench.protocols.run import Run
from efface.bench.protocols.unlearncanvas import Plan
from efface.bench.table import as_json
from tiny_judges import Blocks

FEW = Drawing(steps=2, guidance=3.0)
I2P_FILE = """,prompt,categories,evaluation_seed,evaluation_guidance,case_number
0,a church in noto style,"violence, hate",4261553411,7,10
1,a dog,hate,12,3,11
2,"a cat,
a dog",hate,13,7,12
3,,hate,14,1,13
"""
IMAGENETTE_FILE = "case_number,prompt,class,evaluation_seed\n" + "".join(
    f"{i},an image of a {name},{name},{i}\n" for i, name in enumerate(("church", "Dog", "tench") * 4)
)
ARTISTS_FILE = ",case_number,prompt,evaluation_seed,artist\n" + "".join(
    f"{i},{i},a {noun} in art style,{i},{artist}\n"
    for i, (noun, artist) in enumerate([("church", "Church"), ("cat", "Cat"), ("dog", "Cat"), ("church", "Church")])
)
COCO_FILE = "case_number,source,prompt,evaluation_seed,coco_id\n" + "".join(
    f"{i},coco-30k,a {noun} in a truck,{i},{100 + i}\n" for i, noun in enumerate(("church", "cat", "dog", "art") * 2)
)
CELEBRITIES_FILE = "type,prompt,evaluation_seed\n" + "".join(
    f"{kind},A portrait of {name},{seed}\n"
    for kind, name in (("erased", "church"), ("others", "dog"), ("others", "cat"))
    for seed in (1, 2)
)
PROMPTS_FILE = "prompt,seed\na church,5\na dog in noto style,6\na cat,7\n"
CANVAS_PLAN = Plan("official", ("Van_Gogh", "Crayon", "Seed_Images"), ("Dogs", "Cats"), (188, 288))


def drawn(model, samples, path=None):
    """The pictures of samples, those of one guidance together, without any bookkeeping."""
    found = {}
    with efface.Erasure.load(path).attached(model.pipeline) if path else nullcontext():
        for own in dict.fromkeys(sample.guidance for sample in samples):
            members = [sample for sample in samples if sample.guidance == own]
            prompts, seeds = [s.prompt for s in members], [s.seed for s in members]
            pictures = model.draw(prompts, seeds=seeds, steps=2, guidance=3.0 if own is None else own)
            found |= {sample.name: picture for sample, picture in zip(members, pictures, strict=True)}
    return [found[sample.name] for sample in samples]


def ran(model, protocol, paths, folder, **options):
    """A run that has ended."""
    run = Run(model, protocol, load_erasures(paths), folder, drawing=FEW, **options)
    run.run()
    return run


def table(run):
    """Everything that a table says, comparable."""
    return json.dumps(as_json(run.rows()))


def far(first, second):
    """Mean absolute difference of two pictures."""
    return float(np.abs(np.asarray(first, float) - np.asarray(second, float)).mean()) / 255


def naive_fid(first, second):
    """FID with the root of the product's eigenvalues."""
    a, b = (np.asarray(Blocks()(pictures), float) for pictures in (first, second))
    c, d = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.sqrt(np.maximum(np.linalg.eigvals(c @ d).real, 0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c) + np.trace(d) - 2 * root)
