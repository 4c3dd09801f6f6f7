from av2t_core.labelstudio.controls import DrawnTag, Mask, Region, Size


class KeyPointLabels(DrawnTag):
    """A dot: it says where something is, and not what it covers."""

    holds_masks = has_area = False

    def read(self, region: Region, shape: Size) -> Mask:
        import numpy as np

        from av2t_core.labelstudio.polygons import numbers

        x, y = numbers([[region["value"].get(name) for name in ("x", "y")]])[0] / 100
        mask = np.zeros(shape, bool)
        mask[min(max(0, int(y * shape[0])), shape[0] - 1), min(max(0, int(x * shape[1])), shape[1] - 1)] = True
        return mask
