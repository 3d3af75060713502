"""efface in ComfyUI: two nodes that apply erasures to a MODEL. See README.md."""

from .nodes import ApplyAutoencoderEdit, ApplyErasure

NODE_CLASS_MAPPINGS = {"EffaceApplyErasure": ApplyErasure, "EffaceApplyAutoencoderEdit": ApplyAutoencoderEdit}
NODE_DISPLAY_NAME_MAPPINGS = {
    "EffaceApplyErasure": "Apply erasure (efface)",
    "EffaceApplyAutoencoderEdit": "Apply autoencoder edit (efface)",
}
