"""Exit 0: efface serves, or refuses in a sentence. Exit 1: it fails."""
from checks import *

# Autoencoders in the public layouts, with the options those libraries have. Each must reconstruct as its own library does, or be refused.
import json, pathlib, shutil
from safetensors.torch import save_file
D, L = 16, 64; g = torch.Generator().manual_seed(0); W = torch.randn(L, D, generator=g) / 4; b = torch.randn(L, generator=g) / 10; V = torch.nn.functional.normalize(W, dim=1); c = torch.randn(D, generator=g) / 10; x = torch.randn(32, D, generator=g)
def top(z, k): v, i = z.topk(k, -1); return torch.zeros_like(z).scatter(-1, i, v)
pre = (x - c) @ W.T + b; s = torch.linspace(.2, 3, L)[:, None]; z = pre.relu().unflatten(-1, (8, L // 8)); v, i = z.max(-1); group = torch.zeros_like(z).scatter(-1, i[..., None], v[..., None]).flatten(-2); j = pre.abs().topk(8, -1).indices; signed = torch.zeros_like(pre).scatter(-1, j, pre.gather(-1, j))
EA = {"encoder.weight": W, "encoder.bias": b, "W_dec": V, "b_dec": c}; SL = {"W_enc": W.T, "b_enc": b, "W_dec": V, "b_dec": c}
ea = {"d_in": D, "k": 8, "expansion_factor": 4, "num_latents": 0, "normalize_decoder": True}; sl = {"architecture": "topk", "d_in": D, "d_sae": L, "apply_b_dec_to_input": True, "normalize_activations": "none"}
CASES = {
 "sparsify": (ea | {"activation": "topk", "transcode": False}, EA, top(pre.relu(), 8) @ V + c), "SAELens topk": (sl | {"k": 8}, SL, top(pre.relu(), 8) @ V + c),
 "sparsify, activation groupmax": (ea | {"activation": "groupmax"}, EA, group @ V + c), "sparsify, transcode": (ea | {"transcode": True}, EA, top((x @ W.T + b).relu(), 8) @ V + c),
 "EleutherAI sae, signed": (ea | {"signed": True}, EA, signed @ V + c), "SAELens 3 to 5, k in activation_fn_kwargs": (sl | {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 8}}, SL, top(pre.relu(), 8) @ V + c),
 "SAELens, rescale_acts_by_decoder_norm": (sl | {"k": 8, "rescale_acts_by_decoder_norm": True}, SL | {"W_dec": V * s}, (top(pre.relu() * s.T, 8) / s.T) @ (V * s) + c),
 "SAELens, finetuning_scaling_factor": (sl | {"k": 8, "finetuning_scaling_factor": True}, SL | {"finetuning_scaling_factor": s.flatten()}, (top(pre.relu(), 8) * s.T) @ V + c)}
for name, (cfg, tensors, want) in CASES.items():
    f = pathlib.Path(f"{SCRATCH}/f21"); shutil.rmtree(f, ignore_errors=True); f.mkdir(); (f / "cfg.json").write_text(json.dumps(cfg)); save_file({k: t.contiguous() for k, t in tensors.items()}, f / ("sae.safetensors" if "encoder.weight" in tensors else "sae_weights.safetensors"))
    try: got = load_coder(f)(x); check(gap(got.detach(), want) < 1e-4, f"{name}: read without a word, reconstructs otherwise (by {gap(got.detach(), want):.1f}, data of size 1)")
    except EffaceError as e: print(name, "refused:", str(e)[-110:])
end()
