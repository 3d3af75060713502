"""COCO on a tiny pipeline, every number against a count of its own."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from efface.bench.protocols.coco import Coco
from efface.errors import EffaceError, UsageError
from protocol_runs import COCO_FILE, drawn, naive_fid, ran
from tiny_judges import Blocks, Brightness


def test_coco_is_agreement_and_distance_of_sets(model, home, file, tmp_path, real):
    protocol = Coco(file(COCO_FILE), Brightness(), Blocks(), pictures=real)
    path = home / "church.safetensors"
    unerased, line = ran(model, protocol, [path], tmp_path / "run").rows()
    before, after = (drawn(model, protocol.samples, p) for p in (None, path))
    photos = [Image.open(real / f"COCO_val2014_{number:012}.png") for number in range(100, 108)]
    score = [np.asarray(Brightness()(p, [s.prompt for s in protocol.samples])) for p in (before, after)]
    assert unerased.cells["CLIP score"].value == pytest.approx(score[0].mean())
    assert line.cells["CLIP score"].value == pytest.approx(score[1].mean())
    assert line.cells["CLIP change"].value == pytest.approx((score[1] - score[0]).mean())
    assert unerased.cells["FID"] == pytest.approx(naive_fid(before, photos), rel=1e-3)
    assert line.cells["FID"] == pytest.approx(naive_fid(after, photos), rel=1e-3)
    assert line.cells["FID to unerased"] == pytest.approx(naive_fid(after, before), rel=1e-3, abs=1e-3)
    assert "FID to unerased" not in unerased.cells
    assert protocol.notes() == ["FID over 8 pictures against 8 real ones"]
    (real / "COCO_val2014_000000000103.png").unlink()
    with pytest.raises(EffaceError, match=r"lacks the pictures of 1 of 8 captions, 000000000103\.jpg"):
        Coco(file(COCO_FILE), None, Blocks(), pictures=real)
    with pytest.raises(UsageError, match="neither a CLIP nor features"):
        Coco(file(COCO_FILE))
