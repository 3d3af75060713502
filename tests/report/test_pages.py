"""The pages as a reader meets them: opened from disk in a headless Chromium, on a desk and on a phone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import efface
from efface.api.audit import audit
from efface.api.card import Group, write_cards
from efface.api.red_team import AttackResult, RedTeam
from efface.concepts.sample import Sample
from efface.models.sampling import Sampling
from efface.redteam.samples import Samples

CHROMIUM = Path("/usr/bin/chromium")
WIDTHS = {"desk": 1280, "phone": 390}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not CHROMIUM.exists(), reason=f"{CHROMIUM} is missing, so NO PAGE WAS OPENED: apt-get install chromium"
    ),
]


def church(prompt):
    return Sample(prompt, shows=("church",))


@pytest.fixture(scope="module")
def cards(tmp_path_factory):
    """Cards of two erasures of one concept, drawn with few steps."""
    pipe = efface.load("emoji")
    groups = [
        Group("concept", (church("a church in noto style"), church("a church"))),
        Group("aliases", (church("a chapel in noto style"),)),
        Group("neighbours", (Sample("a house in noto style", shows=("house",)),)),
        Group("unrelated", (Sample("a sunflower in noto style", shows=("sunflower",)), Sample("a cat on the moon"))),
    ]
    erasures = [efface.erase(pipe, "church", method=method) for method in ("uce", "rece")]
    drawn = [audit(pipe, erasure, groups=groups, seeds=2, sampling=Sampling(steps=3)) for erasure in erasures]
    team = RedTeam(("ring-a-bell", "synonyms"), "quick", Samples(2, sanity=1))
    results = team.run(pipe, erasures[:1], "church", tmp_path_factory.mktemp("attacks"))
    results.append(AttackResult("mma", "church", None, "there is nothing to bring back"))
    return [replace(card, attacks=tuple(results)) for card in drawn]


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as player:
        running = player.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(params=[1, 2], ids=["one erasure", "two"])
def written(cards, request, tmp_path):
    """A card's page, and the JSON beside it as a list."""
    page = write_cards(cards[: request.param], tmp_path)
    data = json.loads((tmp_path / "card.json").read_text())
    return page, data if isinstance(data, list) else [data]


@pytest.fixture(params=WIDTHS)
def opened(browser, written, request):
    """The page in the browser, what went wrong while it was opened, and the width of the screen."""
    page = browser.new_page(viewport={"width": WIDTHS[request.param], "height": 800})
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda asked: wrong.append(asked.url) if asked.url.startswith("http") else None)
    page.goto(written[0].as_uri())
    yield page, wrong, WIDTHS[request.param]
    page.close()


def test_the_card_opens_from_disk(opened, written, cards):
    page, wrong, width = opened
    assert wrong == []
    sizes = page.eval_on_selector_all("img", "all => all.map(i => [i.complete, i.naturalWidth, i.clientWidth])")
    pairs = sum(2 * min(8, g["pictures"]) for card in written[1] for g in card["groups"].values())
    triptychs = [t for card in cards[: len(written[1])] for a in card.attacks for t in a.triptychs]
    attacked = sum(len(triptych.image_row().pictures) for triptych in triptychs)
    assert attacked
    assert len(sizes) == pairs + attacked
    assert all(complete and natural >= 32 and 30 < shown <= 256 for complete, natural, shown in sizes)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width  # nothing to scroll sideways
    letters = page.eval_on_selector_all(
        "p, td, figure", "all => all.map(e => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(letters) >= 12
    words = "all => all.map(t => [t.getBoundingClientRect(), t.ownerSVGElement.getBoundingClientRect()])"
    boxes = page.eval_on_selector_all("svg.bar text", words)
    assert boxes
    assert all(word["height"] >= 8 and word["right"] <= drawing["right"] + 1 for word, drawing in boxes)
    assert written[0].stat().st_size < 5_000_000


def test_every_number_on_the_card_is_the_jsons(opened, written):
    page, _, _ = opened
    bars = page.eval_on_selector_all("svg.bar text", "all => all.map(e => e.textContent)")
    rows = page.eval_on_selector_all("tr", "all => all.map(r => [...r.cells].map(c => c.textContent))")
    paragraphs = page.eval_on_selector_all("p", "all => all.map(p => p.textContent)")
    expected_bars, expected_rows, distances, attacks = [], [], [], []
    for card in written[1]:
        if card["suffered"]:
            distances.append(f"{card['suffered']['distance']:.3f}")
        for group in card["groups"].values():
            rates = (group[name] for name in ("shown_before", "shown_after", "intact") if group.get(name))
            expected_bars += [f"{r['value']:.1%} ({r['low']:.1%} to {r['high']:.1%})" for r in rates]
            distances.append(f"{group['distance']:.3f}")
        curve = card["certificate"]
        for norm, mean, worst in zip(curve["norms"], curve["recoverable"], curve["worst"], strict=True):
            expected_rows.append([f"{norm:g}", f"{mean:.1%}", f"{worst:.1%}"])
        for found in card["attacks"]:
            name = f"{found['attack']}on {found['concept']}"
            rates = [found[part] for part in ("pre_asr", "gained", "asr") if part in found]
            told = [f"{r['value']:.1%} ({r['low']:.1%} to {r['high']:.1%})" for r in rates]
            attacks.append([name, *told, found["verdict"]] if told else [name, f"not run: {found['why']}"])
    assert [text for text in bars if " to " in text] == expected_bars
    assert [row for row in rows if len(row) == 3 and row[1].endswith("%")] == expected_rows
    told = [r for r in rows if r[0].endswith("on church") and " on" not in r[0]]  # not those of the table side by side
    assert [[*r[:4], r[5]] if len(r) == 6 else r for r in told] == attacks
    assert [p.split("differ by ")[1][:5] for p in paragraphs if "differ by" in p] == distances


def test_the_browser_reports_what_is_wrong(browser, tmp_path):
    """The checks above can fail: a page with a script that throws and a picture from elsewhere is noticed."""
    broken = tmp_path / "broken.html"
    broken.write_text("<img src='http://127.0.0.1:9/none.png'><script>nothing.here()</script>")
    page, wrong = browser.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("requestfailed", lambda asked: wrong.append(asked.url))
    page.goto(broken.as_uri())
    assert len(wrong) == 2
    page.close()
