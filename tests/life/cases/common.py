"""Shared by the scripts here: tiny pipelines of real diffusers classes, an erasure, a way to draw."""
import os, sys, copy, warnings, traceback, logging
os.environ.setdefault("OMP_NUM_THREADS", "1"); os.environ.setdefault("HF_HUB_OFFLINE", "1")
TESTS = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[:0] = [os.path.join(TESTS, room) for room in ("support", "erasures", "export")]
warnings.filterwarnings("ignore")
import tempfile
import numpy as np, torch
SCRATCH = tempfile.mkdtemp(prefix="efface-cases-")
torch.set_num_threads(1)
import tiny, tiny_families
import efface
from names import EffaceError, ExportConfig, TextMap, attached_to, export, hook_by_hand, load_coder

CHURCH = efface.Concept("church", anchor="cat")

def pipe_of(name="sd1"):
    return copy.deepcopy(tiny_families.pipeline(name))

def erasure_of(name="sd1", concept=CHURCH, method="uce", strong=1.0, **k):
    e = efface.erase(tiny_families.pipeline(name), concept, method=method, keep=k.pop("keep", ["a dog"]), **k)
    if strong != 1.0:
        e = TextMap(e.provenance, e.u * strong, e.v)
    return e

def draw(pipe, prompt="a church", steps=3, guidance=4.0, seed=0, **k):
    pipe.set_progress_bar_config(disable=True)
    torch.manual_seed(0)
    call = dict(num_inference_steps=steps, guidance_scale=guidance, output_type="np") | k
    if prompt is not None: call["prompt"] = prompt
    return pipe(generator=torch.Generator().manual_seed(seed), **call).images

def gap(a, b):
    return float(np.abs(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)).max())

_CASES = []
def case(f):
    _CASES.append(f); return f

def run_all():
    only = sys.argv[1:]
    for f in _CASES:
        if only and f.__name__ not in only: continue
        print(f"=== {f.__name__}: {f.__doc__ or ''}", flush=True)
        try:
            with warnings.catch_warnings(record=True) as w:
                warnings.simplefilter("always")
                f()
            said = {str(x.message)[:200] for x in w if "efface" in str(x.filename) or "erasure" in str(x.message)}
            if said: print("   warnings:", said)
        except EffaceError as e:
            print("   EffaceError:", e)
        except BaseException as e:
            print("   TRACEBACK:", type(e).__name__, str(e)[:300].replace("\n", " | "))
            tb = traceback.extract_tb(e.__traceback__)
            print("      at", [f"{os.path.basename(t.filename)}:{t.lineno}" for t in tb[-4:]])
