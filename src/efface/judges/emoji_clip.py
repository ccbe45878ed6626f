"""The embedded model's own CLIP: its text encoder, and an image tower trained to agree with it.

`models/emoji/clip` holds the configuration of a `CLIPModel` and every weight but the text tower's, which is the
diffusion model's text encoder, as in Stable Diffusion.
"""

import re
from typing import Any

from efface.errors import BadFile
from efface.models import open_model
from efface.models.emoji import HERE

# transformers 4 writes the text encoder's weights under this prefix, transformers 5 without.
_PREFIX = re.compile(r"^(text_model\.)?")


def embedded_clip() -> tuple[Any, Any, Any]:
    """The model, its tokenizer and its image processor.

    Raises:
        BadFile: The weights are missing or do not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from transformers.models.clip.configuration_clip import CLIPConfig
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.clip.modeling_clip import CLIPModel

    folder, base = HERE / "clip", open_model("emoji")
    try:
        config: Any = CLIPConfig.from_pretrained(folder)
        model = CLIPModel(config)
        state = {name: value.float() for name, value in load_file(folder / "model.safetensors").items()}
        text = base.text_encoder.state_dict()
        state |= {_PREFIX.sub("text_model.", name, count=1): value for name, value in text.items()}
        model.load_state_dict(state)
        processor = CLIPImageProcessorPil.from_pretrained(folder)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise BadFile(f"Cannot read the CLIP in {folder}: {' '.join(str(error).split())[:200]}.") from error
    return model, base.tokenizer, processor
