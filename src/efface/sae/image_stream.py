"""Activations of a vision-language model's image features in rounds, from pictures alone: no question is asked."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from efface.errors import UsageError
from efface.models.image_sites import ImageSite
from efface.models.vlm import VisionLanguageModel
from efface.sae.autoencoder import Reads
from efface.sae.stream import shuffled


class ImageStream:
    """The features of pictures at some sites; round i always holds the same vectors.

    Args:
        vlm: reads the pictures.
        pictures: cycled through in shuffled order.
        sites: where features are read.
        count: pictures a round.
        seed: of the order.
        rank: number of this process; each reads pictures of its own.
        world: processes that share the work.
    """

    reads: Reads = "output"

    def __init__(
        self,
        vlm: VisionLanguageModel,
        pictures: Sequence[Image.Image],
        sites: Sequence[ImageSite],
        *,
        count: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ):
        if not pictures:
            raise UsageError("no picture was given: name a folder of pictures to train the autoencoder on.")
        if count < 1:
            raise UsageError(f"{count} pictures a round were asked for; expected at least 1.")
        self.vlm = vlm
        self.pictures = pictures
        self.sites = list(sites)
        self.names = [site.name for site in sites]
        self.count = count
        self.seed = seed
        self.rank = rank
        self.world = world

    def round(self, index: int) -> dict[str, Tensor]:
        """Site name -> vectors (rows width) in float32 on the CPU."""
        first = (index * self.world + self.rank) * self.count
        chosen = [shuffled(self.pictures, number, self.seed) for number in range(first, first + self.count)]
        return {site.name: self.vlm.features(chosen, site).flatten(0, 1) for site in self.sites}
