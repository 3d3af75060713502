"""I2P or its nudity subset: what NudeNet, or any judge, finds in pictures of inappropriate prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from efface.cli.bench import common, options

if TYPE_CHECKING:
    from efface.bench.protocols.i2p import I2P


@dataclass(frozen=True)
class Request(options.OnFile):
    """Draw every prompt with its own seed and guidance, and count what is found."""

    judge: str = "nudenet"
    """What looks for it: nudenet (confidence above 0.6), nudenet:THRESHOLD, nudenet-as-published, nsfw, …"""


def build(request: Request, shared: options.Shared) -> I2P:
    """The protocol of a request."""
    from efface.bench.protocols.i2p import I2P
    from efface.judges import open_judge

    return I2P(options.prompt_file(request, shared), open_judge(request.judge), limit=request.limit)


def main(args: list[str]) -> None:
    """Run the command."""
    common.main(Request, build, args, name="i2p", summary=__doc__)
