"""The named models, a frozen config each."""

from av2t_core.model.config import AV2TSamConfig, Beit3Config, Sam2Config

# The embedded default: the paper's modules at sizes that a laptop's CPU runs, trained by this project alone.
TINY = AV2TSamConfig(
    audio_width=256,
    image_width=256,
    feature_width=256,
    adapter_width=64,
    antialias=True,
    beit3=Beit3Config(image_size=128, width=192, layers=3, heads=6, ffn_width=768, max_text=8, vocabulary=0),
    sam2=Sam2Config(
        image_size=192,
        embed_dim=48,
        num_heads=1,
        stages=(1, 2, 4, 1),
        global_att_blocks=(4, 5, 6),
        window_spec=(8, 4, 12, 6),
        width=128,
        memory=False,
    ),
)

PRESETS = {"tiny": TINY}
