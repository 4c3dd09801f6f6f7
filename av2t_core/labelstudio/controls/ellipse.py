from av2t_core.labelstudio.controls import DrawnTag, Mask, Region, Size, picture_size


class EllipseLabels(DrawnTag):
    """Its middle and its radii, in per cent of the frame's sides; turned clockwise around its middle."""

    def read(self, region: Region, shape: Size) -> Mask:
        import numpy as np

        from av2t_core.labelstudio.polygons import numbers

        value, (height, width) = region["value"], picture_size(region)
        given = [value.get(name) for name in ("x", "y", "radiusX", "radiusY")]
        x, y, across, down, degrees = numbers([[*given, value.get("rotation", 0)]])[0]
        # In the pixels of the picture, from the ellipse's middle to the middle of each pixel of the mask.
        rows, columns = (np.indices(shape) + 0.5) / np.reshape(shape, (2, 1, 1)) * [[[height]], [[width]]]
        rows, columns = rows - y / 100 * height, columns - x / 100 * width
        turned = np.deg2rad(degrees)
        along = columns * np.cos(turned) + rows * np.sin(turned)
        aside = rows * np.cos(turned) - columns * np.sin(turned)
        radii = across / 100 * width, down / 100 * height
        if min(radii) <= 0:
            return np.zeros(shape, bool)
        return np.asarray((along / radii[0]) ** 2 + (aside / radii[1]) ** 2 <= 1)
