"""Pictures that are drawn once: each is kept under the hash of everything that determines it, as soon as it is drawn."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from PIL import Image

from efface.concepts.sample import Sample
from efface.erasures import Erasure
from efface.errors import EffaceError, system_reason
from efface.io.atomic import write_atomically
from efface.io.digest import sha256_of_tensors
from efface.io.images import png_bytes
from efface.io.progress import Progress, drawing, silent
from efface.models.fingerprint import fingerprint
from efface.models.model import Model, Settings
from efface.models.sampling import scheduler_digest

BATCH = 16
"""Pictures drawn together, and lost at most when a run is stopped."""


class PictureStore:
    """Pictures of one model, before and after erasures, in a folder or in memory.

    A picture is a PNG file named by the sha256 of the model's fingerprint, precision, sampling, erasures, prompt and seed, put
    in place whole. One that is there is never drawn again: a run that was stopped goes on, several erasures share the pictures
    of the unerased model, and runs of other settings may share the folder.

    Args:
        model: draws what is missing.
        settings: how every picture is drawn.
        folder: of the files, made when the first is written; in memory without one.
    """

    def __init__(self, model: Model, settings: Settings, folder: Path | None = None):
        self.model = model
        self.settings = settings
        self.folder = folder
        self.images: dict[str, Image.Image] = {}
        self.base = {
            "model": fingerprint(model).to_json(),
            "dtype": str(next(model.networks()[0].module.parameters()).dtype),
            "scheduler": scheduler_digest(model.pipeline),
            "settings": dict(settings),
        }

    def draw(
        self, samples: Sequence[Sample], erasure: Erasure | None = None, progress: Progress = silent
    ) -> list[Image.Image]:
        """One picture a sample, of the unerased model or with an erasure attached; only what is missing is drawn.

        Raises:
            EffaceError: a file cannot be read or written, or the erasure cannot be attached.
        """
        keys = self.keys(samples, erasure)
        missing = [number for number, key in enumerate(keys) if not self.has(key)]
        done = len(samples) - len(missing)
        attached = nullcontext() if erasure is None or not missing else erasure.attached(self.model.pipeline)
        with attached, drawing(progress, len(samples), drawn=done):
            for start in range(0, len(missing), BATCH):
                batch = missing[start : start + BATCH]
                prompts, seeds = [samples[i].prompt for i in batch], [samples[i].seed for i in batch]
                drawn = self.model.draw(prompts, seeds=seeds, checked=False, **self.settings)
                for i, image in zip(batch, drawn, strict=True):
                    self._keep(keys[i], image)
        return [self._image(key) for key in keys]

    def keys(self, samples: Sequence[Sample], erasure: Erasure | None = None) -> list[str]:
        """What determines each picture, hashed."""
        erased = None if erasure is None else [erasure.kind, sha256_of_tensors(erasure.tensors())]
        base = self.base | {"erased": erased}
        return [_digest(base | {"prompt": sample.prompt, "seed": sample.seed}) for sample in samples]

    def has(self, key: str) -> bool:
        """Whether a picture is there."""
        return key in self.images or (self.folder is not None and self._path(key).exists())

    def noted(self, name: str, by: Any) -> Any:
        """What an earlier run in this folder decided by the same; None where there was none."""
        path = None if self.folder is None else self._note(self.folder, name, by)
        return json.loads(path.read_text()) if path is not None and path.exists() else None

    def note(self, name: str, by: Any, value: Any) -> None:
        """Write down what this run decided, and by what, for one that goes on after it was stopped."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._note(self.folder, name, by), json.dumps(value).encode())

    def _note(self, folder: Path, name: str, by: Any) -> Path:
        return folder / f"{name}-{_digest(self.base | {'by': by})[:16]}.json"

    def _keep(self, key: str, image: Image.Image) -> None:
        if self.folder is None:
            self.images[key] = image
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path(key), png_bytes(image))

    def _image(self, key: str) -> Image.Image:
        if key in self.images:
            return self.images[key]
        path = self._path(key)
        try:
            with Image.open(path) as image:
                return image.convert("RGB")
        except OSError as error:
            raise EffaceError(
                f"{path} is damaged ({system_reason(error)}): delete it, and it is drawn again."
            ) from error

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{key[:32]}.png"


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()
