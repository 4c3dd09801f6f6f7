"""The one predicate for what the paper trains (section 4.1), which is also what a model version stores."""

import re

_TRAINED = re.compile(
    r"(projector|adapters|segmenter\.to_prompt)\."
    r"|segmenter\.sam\.(sam_mask_decoder\.|mask_decoder\.|(sam_)?prompt_encoder\.no_mask_embed\.)"
)


def is_trained(key: str) -> bool:
    """Whether the tensor of this name in AV2TSam.state_dict() is trained; BEiT-3 and the rest of SAM are frozen."""
    return _TRAINED.match(key) is not None
