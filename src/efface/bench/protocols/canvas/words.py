"""Other words in a run of the canvas's protocol: held-out synonyms and descriptions, two objects in a picture, places alone.

Kept in the run's folder under `words/`, a file an erasure: they may be asked later.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from efface.bench.protocols.canvas.targets import PAIRS
from efface.bench.protocols.canvas.word_cells import file_of
from efface.erasures import Erasure
from efface.io.atomic import write_atomically
from efface.io.progress import Progress, silent

if TYPE_CHECKING:
    from efface.bench.protocols.canvas.plan import Plan
    from efface.bench.protocols.canvas.run import Canvas
    from efface.models.model import Model
    from efface.profiles.emoji.exam import Exam


def exam_of(model: Model, plan: Plan) -> Exam:
    """What a run asks beside its own prompts; 40 two-object pictures an object, of a quick run 24."""
    from efface.profiles.emoji.exam import Exam

    return Exam(model, PAIRS, 1, scenes=24 if plan.quick else 40, named=False)


def pictures_of(plan: Plan, exam: Exam) -> int:
    """Drawn in all, the unerased model's included, each concept's once."""
    concepts = list(dict.fromkeys(target.gone[0] for target in plan.targets))
    own = sum(len(exam.asked(name)) for name in concepts)
    return len(exam.shared) + own + len(plan.methods) * (own + len(concepts) * len(exam.shared))


def ask_all(canvas: Canvas, progress: Progress = silent) -> None:
    """Ask every erasure of a run in mode `single`; what its folder holds is not asked again."""
    exam = exam_of(canvas.model, canvas.plan)
    rows = [(target, method) for target in canvas.plan.targets for method in canvas.plan.methods]
    for number, (target, method) in enumerate(rows):
        path = canvas.erasure(method, target.edits[0])
        file = file_of(canvas.folder, path.stem)
        progress(number / len(rows), path.stem)
        if not file.exists():
            found = exam.after(target.gone[0], Erasure.load(path))
            file.parent.mkdir(exist_ok=True)
            write_atomically(file, json.dumps(found._asdict()).encode())
