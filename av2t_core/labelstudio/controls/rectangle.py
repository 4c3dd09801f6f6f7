from av2t_core.labelstudio.controls import ImageTag, Mask, Region, Size, Value, percent, picture_size


class RectangleLabels(ImageTag):
    """The box around the mask, in per cent of the frame's sides."""

    kind = "rectangle"
    holds_masks = False

    def write(self, mask: Mask) -> list[Value]:
        import cv2
        import numpy as np

        x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
        return [{**percent((x, y, width, height), mask.shape), "rotation": 0}]

    def read(self, region: Region, shape: Size) -> Mask:
        import numpy as np

        from av2t_core.labelstudio.polygons import filled, numbers

        value = region["value"]
        sides = [value.get(name) for name in ("x", "y", "width", "height")]
        x, y, width, height, degrees = numbers([[*sides, value.get("rotation", 0)]])[0]
        corners = np.array([[0, 0], [width, 0], [width, height], [0, height]]) / 100
        if angle := np.deg2rad(degrees):
            # Clockwise around the first corner, in the pixels of the picture.
            scale = np.array(picture_size(region)[::-1])
            rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
            corners = corners * scale @ rotation / scale
        return filled((corners + np.array([x, y]) / 100) * shape[::-1], shape)
