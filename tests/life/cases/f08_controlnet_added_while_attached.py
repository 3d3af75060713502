"""Exit 0: efface serves, or refuses in a sentence. Exit 1: it fails."""
from checks import *

# The erasure is on; the pipeline is converted with from_pipe(controlnet=...): the ControlNet reads the unmapped text.
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from PIL import Image
pic = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8))
p, e = pipe_of(), erasure_of(); net = ControlNetModel.from_unet(p.unet, conditioning_embedding_out_channels=(4, 8)).eval()
torch.manual_seed(3)
with torch.no_grad():
    for w in net.parameters(): w.add_(0.05 * torch.randn_like(w))
e.attach(p); c = StableDiffusionControlNetPipeline.from_pipe(p, controlnet=net); got = draw(c, image=pic); seen = len(attached_to(c)); e.remove(p)
handles = hook_by_hand(e, c); want = draw(c, image=pic); [h.remove() for h in handles]
check(gap(got, want) < 1e-6, f"attached_to says {seen}, and the ControlNet draws with the erased concept's text (difference {gap(got, want):.4f})")
end()
