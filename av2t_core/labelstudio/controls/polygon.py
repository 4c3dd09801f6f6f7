from av2t_core.labelstudio.controls import ImageTag, Mask, Region, Size, Value
from av2t_core.limits import POLYGON_POINTS


class PolygonLabels(ImageTag):
    """One polygon for each part of the mask, in per cent of the frame's sides."""

    kind = "polygon"

    def write(self, mask: Mask) -> list[Value]:
        import numpy as np

        from av2t_core.labelstudio.polygons import polygons

        scale = 100 / np.array(mask.shape[::-1])
        return [{"points": np.round(ring * scale, 3).tolist(), "closed": True} for ring in polygons(mask)]

    def read(self, region: Region, shape: Size) -> Mask:
        from av2t_core.labelstudio.polygons import filled, numbers

        points, closed = region["value"].get("points"), region["value"].get("closed")
        if closed is False:
            raise ValueError("it is not closed")
        if not isinstance(points, list) or len(points) < 3 or any(type(p) is not list or len(p) != 2 for p in points):
            raise ValueError("it has no points that make a polygon")
        if len(points) > POLYGON_POINTS:
            raise ValueError(f"it has {len(points):,} points, and at most {POLYGON_POINTS:,} can be used")
        return filled(numbers(points) / 100 * shape[::-1], shape)
