"""Training with labels: losses against naive code, gradients, and one latent a concept on planted directions."""

from __future__ import annotations

import json
import math

import pytest
import torch

from efface.errors import UsageError
from efface.sae.autoencoder import SAEConfig, SparseAutoencoder
from efface.sae.config import SAETrainConfig
from efface.sae.files import notes_of
from efface.sae.supervision import Groups, assign, labels_of, saemnesia_loss, saeparate_loss, supervise
from efface.sae.train import train


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


KINDS = torch.tensor([0, 0, 0, 1, 1])
LABELS = torch.tensor(
    [
        [1, 0, 0, 1, 0],
        [1, 0, 0, 0, 1],
        [0, 1, 0, 1, 0],
        [1, 0, 0, 1, 0],
        [0, 1, 0, 0, 1],
        [0, 0, 1, 1, 0],
        [0, 1, 0, 1, 0],
    ]
).bool()


def test_saemnesias_loss_equals_the_naive_one():
    logits = random(7, 5)
    total = 0.0
    for row, labels in zip(logits.tolist(), LABELS.tolist(), strict=True):
        for z, shown in zip(row, labels, strict=True):
            p = 1 / (1 + math.exp(-z))
            total -= math.log(p if shown else 1 - p)
    expected = total / 35 + 0.01 * float(logits.abs().sum()) / 35
    correlations = []
    for i in range(5):
        for j in range(5):
            if KINDS[i] != KINDS[j]:
                correlations.append(float(torch.corrcoef(logits[:, [i, j]].T)[0, 1]) ** 2)
    expected += 0.1 * sum(correlations) / len(correlations)
    assert float(saemnesia_loss(logits, LABELS, KINDS)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kinds", [KINDS, torch.zeros(5, dtype=torch.long)], ids=["both kinds", "one kind"])
def test_saeparates_loss_equals_the_naive_one(kinds):
    codes = random(7, 9).relu() + 0.01
    unit = [row / row.norm() for row in codes]
    of_kind = [[set(torch.nonzero(row & (kinds == k)).flatten().tolist()) for row in LABELS] for k in kinds.unique()]

    def shared(i, j):
        return [bool(sets[i] & sets[j]) for sets in of_kind]

    losses = []
    for i in range(7):
        likes = [j for j in range(7) if j != i and all(shared(i, j))]
        if not likes:
            continue
        weight = [4.0 if any(shared(i, j)) and not all(shared(i, j)) else 1.0 for j in range(7)]
        exps = [weight[j] * math.exp(float(unit[i] @ unit[j]) / 0.07) for j in range(7)]
        below = sum(exps[j] for j in range(7) if j != i)
        losses.append(-sum(math.log(exps[j] / below) for j in likes) / len(likes))
    assert float(saeparate_loss(codes, LABELS, kinds)) == pytest.approx(sum(losses) / len(losses), rel=1e-9)


@pytest.mark.parametrize("kind", ["saemnesia", "saeparate"])
def test_gradients_are_those_of_the_mean_over_positions(kind):
    sae = SparseAutoencoder(SAEConfig(6, 20, 3), seed=1).double()
    positions = random(1, 7, 4, 6, seed=2)  # timesteps pictures positions width
    groups = Groups(positions.mean(2), LABELS, KINDS)
    assigned = torch.tensor([3, 1, 4, 15, 9]) if kind == "saemnesia" else None
    found = supervise(sae, groups, kind, assigned, 0.5)
    before = (positions - sae.b_dec) @ sae.encoder.weight.T + sae.encoder.bias
    pooled = before.mean(2)[0]
    loss = (
        saemnesia_loss(pooled[:, assigned], LABELS, KINDS)
        if kind == "saemnesia"
        else saeparate_loss(pooled.relu(), LABELS, KINDS)
    )
    (0.5 * loss).backward()
    torch.testing.assert_close(found.loss, loss.detach())
    for name, gradient in found.gradients.items():
        torch.testing.assert_close(gradient, dict(sae.named_parameters())[name].grad)


def test_an_absent_concepts_logit_can_fall_below_zero():
    logits = torch.full((4, 1), -1.0, dtype=torch.float64, requires_grad=True)
    loss = saemnesia_loss(logits, torch.zeros(4, 1), torch.zeros(1))
    assert float(loss.detach()) < math.log(2)
    loss.backward()
    assert (logits.grad != 0).all()


def test_two_concepts_never_share_a_latent():
    sae = SparseAutoencoder(SAEConfig(6, 20, 3), seed=1)
    same = Groups(torch.ones(2, 4, 6), torch.tensor([[1, 1], [1, 1], [0, 0], [0, 0]]).bool(), torch.tensor([0, 1]))
    assert len(set(assign(sae, same).tolist())) == 2
    with pytest.raises(UsageError, match="no picture"):
        assign(sae, same._replace(labels=torch.zeros(4, 2, dtype=torch.bool)))
    with pytest.raises(UsageError, match="one of 1 latents"):
        assign(SparseAutoencoder(SAEConfig(6, 1, 1)), same)


class Planted:
    """Pictures of 16 positions that hold a direction for each concept they show, among others that say nothing."""

    names = ("unet.a",)
    reads = "output"
    concepts = ("cat", "dog", "noto", "blob")
    pictures = 64

    def __init__(self):
        self.directions = torch.nn.functional.normalize(random(20, 16).float(), dim=1)

    def round(self, index):
        generator = torch.Generator().manual_seed(index)
        objects, styles = (torch.randint(2, (self.pictures,), generator=generator) for _ in range(2))
        self.labels = torch.stack([objects == 0, objects == 1, styles == 0, styles == 1], 1)
        on = (torch.rand(2, self.pictures, 16, 16, generator=generator) < 0.1).float()
        on = on * torch.rand(on.shape, generator=generator)
        strength = 0.5 + torch.rand(2, self.pictures, 16, 4, generator=generator)
        codes = torch.cat([strength * self.labels[None, :, None].float(), on], 3)
        self.vectors = codes @ self.directions
        return {"unet.a": self.vectors.flatten(0, 2)}

    def groups(self):
        return {"unet.a": Groups(self.vectors.mean(2), self.labels, torch.tensor([0, 0, 1, 1]))}


def auroc(scores, labels):
    """Share of pairs of one that shows it and one that does not in which the first scores higher."""
    own, others = scores[labels], scores[~labels]
    return float((own[:, None] > others[None]).float().mean() + 0.5 * (own[:, None] == others[None]).float().mean())


CONFIG = SAETrainConfig(latents=48, k=6, rule="topk", steps=150, batch=512, lr=5e-3, supervised="saemnesia", groups=64)


def test_saemnesia_gives_each_concept_a_latent_that_tells_it(tmp_path):
    source = Planted()
    sae = train(source, CONFIG, tmp_path)["unet.a"]
    latents = notes_of(tmp_path / "unet.a")["assigned"]
    assert set(latents) == set(source.concepts)
    source.round(10**6)
    active = sae.encode(source.vectors.flatten(0, 2)).dense(48).view(2, 64, 16, 48).mean((0, 2))
    for number, concept in enumerate(source.concepts):
        assert auroc(active[:, latents[concept]], source.labels[:, number]) >= 0.99, concept


def test_a_run_with_labels_resumes_with_its_latents(tmp_path):
    class Killed(Planted):
        def round(self, index):
            if index == 2:
                raise KeyboardInterrupt
            return super().round(index)

    whole = train(Planted(), CONFIG, tmp_path / "whole")["unet.a"]
    with pytest.raises(KeyboardInterrupt):
        train(Killed(), CONFIG, tmp_path / "broken", save_seconds=0)
    broken = train(Planted(), CONFIG, tmp_path / "broken", save_seconds=0)["unet.a"]
    assert torch.equal(whole.W_dec, broken.W_dec)
    assert (
        json.loads((tmp_path / "broken/unet.a/cfg.json").read_text())["assigned"]
        == notes_of(tmp_path / "whole/unet.a")["assigned"]
    )


def test_training_begins_with_another_autoencoder(tmp_path):
    first = train(Planted(), CONFIG, tmp_path / "first")["unet.a"]
    held = first.encoder.weight.clone()
    small = SAETrainConfig(**{**vars(CONFIG), "steps": 1, "lr": 1e-6})
    second = train(Planted(), small, tmp_path / "second", start={"unet.a": first})["unet.a"]
    assert (second.encoder.weight - held).abs().max() < 1e-5
    other = {"unet.a": SparseAutoencoder(SAEConfig(16, 8, 2))}
    with pytest.raises(UsageError, match="as many latents"):
        train(Planted(), small, tmp_path / "third", start=other)


def test_labels_need_pictures_that_somebody_knows(tmp_path):
    class Plain:
        names = ("unet.a",)
        reads = "output"

        def round(self, index):
            return {"unet.a": torch.zeros(4, 4)}

    with pytest.raises(UsageError, match="what each prompt shows"):
        train(Plain(), CONFIG, tmp_path)
    with pytest.raises(UsageError, match="nobody knows"):
        labels_of(["a cow"], {}, ["cow"])
