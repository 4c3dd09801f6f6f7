"""The trunk of `tiny`: its levels, and how adapters reach its blocks."""

from typing import cast

import torch

from av2t_core.encoders.efficientnet import EfficientNetLite, InvertedResidual
from av2t_core.model.adapters import adapted
from av2t_core.model.av2t_sam import AV2TSam
from av2t_core.model.presets import PRESETS
from av2t_core.segmenters.evf_sam2 import EvfSam2


def test_the_levels_are_what_the_neck_asks_for() -> None:
    trunk = EfficientNetLite()
    levels = trunk(torch.randn(2, 3, 96, 96))
    assert [level.shape for level in levels[::-1]] == [
        (2, channels, side, side) for channels, side in zip(trunk.channel_list, (3, 6, 12, 24), strict=True)
    ]


def test_a_stride_begins_where_tensorflow_begins() -> None:
    """The window of the first place of an even picture begins at its first pixel; the last one ends a pixel outside."""
    trunk = EfficientNetLite()
    torch.nn.init.ones_(trunk.first.weight)
    assert trunk.first.bias is not None
    torch.nn.init.zeros_(trunk.first.bias)
    picture = torch.zeros(1, 3, 8, 8)
    picture[:, :, 0, 0] = 1
    out = trunk.first(picture)
    assert out.shape[-2:] == (4, 4)
    assert out[0, 0, 0, 0] == 3
    assert out.sum() == out[0, :, 0, 0].sum()


def test_an_adapter_for_every_block_and_none_for_the_stem() -> None:
    config = PRESETS["tiny"].config()
    model = AV2TSam(config)
    assert model.segmenter.block_widths == (40, 40, 80, 80, 80, 112, 112, 112, 192, 192, 192, 192)
    assert model.adapters is not None
    assert isinstance(model.segmenter, EvfSam2)
    trunk = model.segmenter.trunk
    assert isinstance(trunk, EfficientNetLite)
    images = torch.randn(2, 3, 64, 64)
    additions = model.adapters(torch.randn(2, config.feature_width))
    plain = trunk(images)
    with adapted(trunk.blocks, additions, channel_axis=1):
        shifted = trunk(images)
    assert torch.equal(plain[0], shifted[0])
    assert all((one - other).abs().max() > 0 for one, other in zip(plain[1:], shifted[1:], strict=True))


def test_what_an_adapter_adds_is_seen_at_every_place() -> None:
    trunk = EfficientNetLite()
    seen: list[torch.Tensor] = []
    trunk.blocks[0].register_forward_pre_hook(lambda _block, args: seen.append(args[0]))
    additions = [torch.zeros(1, cast(InvertedResidual, block).channels_in) for block in trunk.blocks]
    additions[0] += torch.arange(40)
    images = torch.randn(1, 3, 32, 32)
    trunk(images)
    with adapted(trunk.blocks, additions, channel_axis=1):
        # The hook above was there first, so it sees what comes before the addition; ask the block itself.
        trunk.blocks[0].register_forward_pre_hook(lambda _block, args: seen.append(args[0]))
        trunk(images)
    difference = seen[-1] - seen[0]
    assert torch.allclose(difference, torch.arange(40.0)[None, :, None, None].expand_as(difference), atol=1e-5)


def test_each_image_may_be_wanted_several_times_in_a_row() -> None:
    trunk = EfficientNetLite()
    images = torch.randn(2, 3, 64, 64)
    additions = [torch.randn(4, cast(InvertedResidual, block).channels_in) for block in trunk.blocks]
    with adapted(trunk.blocks, additions, channel_axis=1):
        expected = trunk(images.repeat_interleave(2, 0))
        trunk.repeats = 2
        levels = trunk(images)
    for level, wanted in zip(levels, expected, strict=True):
        assert level.shape == wanted.shape
        torch.testing.assert_close(level, wanted)
