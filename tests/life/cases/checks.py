"""What the f*.py scripts share; the tiny pipelines are those of efface's own tests (tests/support)."""
from common import *
import pathlib
logging.disable(logging.WARNING)
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
SAE = efface.Concept("church", anchor="cat", templates=("a {}", "a {} in noto style"))
FAILED = []

def fail(text): FAILED.append(text); print("FAILS:", text)
def check(ok, text):
    if not ok: fail(text)
def end(): raise SystemExit(1 if FAILED else 0)
def done(text): print(text); end()

def saeuron(pipe):
    return efface.erase(pipe, SAE, method="saeuron", keep=["a dog"], **tiny.coder_options(pipe, pathlib.Path(f"{SCRATCH}/bugs_coder")))

def lora_file():
    path = f"{SCRATCH}/bugs_lora/lora.safetensors"
    if not os.path.exists(path):
        os.makedirs(f"{SCRATCH}/bugs_lora", exist_ok=True)
        export(efface.erase(tiny_families.pipeline("sd1"), efface.Concept("dog", anchor="art"), method="uce", keep=[]), pipe_of(), path, ExportConfig("lora", steps=1))
    return path
