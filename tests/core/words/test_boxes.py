import torch
from torchvision.ops import box_iou, nms  # type: ignore[import-untyped]

from av2t_core.words.boxes import distinct, overlaps


def drawn(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    corners = torch.rand(count, 2, generator=generator) * 100
    sizes = torch.rand(count, 2, generator=generator) * 60 + 1
    return torch.cat((corners, corners + sizes), dim=1), torch.rand(count, generator=generator).round(decimals=1)


def test_boxes_overlap_and_are_suppressed_as_in_torchvision() -> None:
    boxes, scores = drawn(300)
    torch.testing.assert_close(overlaps(boxes, boxes[:20]), box_iou(boxes, boxes[:20]))
    for overlap in (0.1, 0.3, 0.6):
        assert distinct(boxes, scores, overlap).tolist() == nms(boxes, scores, overlap).tolist()


def test_without_boxes_there_is_none() -> None:
    none = torch.zeros(0, 4)
    assert distinct(none, torch.zeros(0), 0.5).tolist() == []
    assert overlaps(drawn(2)[0], none).shape == (2, 0)
