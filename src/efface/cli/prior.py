"""Read a text encoder's own words once, which erasures of many concepts retain."""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from efface.cli.model_options import parse_on_model
from efface.cli.output import result, say


@dataclass(frozen=True)
class Request:
    """Make the prior of a model's text encoder and keep it in the cache folder; a build that was stopped goes on."""

    model: tyro.conf.Positional[str]
    """`emoji`, a hub id, a diffusers folder, or a .safetensors checkpoint."""
    json: bool = False
    """Print one JSON object instead of a table."""


def main(args: list[str]) -> None:
    """Run the command."""
    request, options = parse_on_model(Request, args, prog="efface prior", description=__doc__, seeded=False)
    import time

    from efface.cli.progress import ProgressBar
    from efface.closed_form.prior import build_prior, cached_prior, prior_path
    from efface.models.model import Model

    model = Model(options.load(request.model, text_only=True))
    path = prior_path(model)
    started = time.perf_counter()
    prior = cached_prior(model)
    if prior is not None:
        say("it was made before.")
    else:
        with ProgressBar("reading the text encoder's own words") as told:
            prior = build_prior(model, told)
    data = {
        "file": str(path),
        "prompts": len(prior.prompts),
        "rows": len(prior.rows),
        "bytes": path.stat().st_size if path.exists() else 0,
        "seconds": round(time.perf_counter() - started, 2),
    }
    result(data, as_json=request.json, rows=[(name, str(value)) for name, value in data.items()])
