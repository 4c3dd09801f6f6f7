from av2t_core.labelstudio.controls import DrawnTag, ImageTag, Mask, Region, Size, Value, picture_size


class MagicWand(DrawnTag):
    """The mask as run lengths, see `rle`."""

    erasable = True

    def read(self, region: Region, shape: Size) -> Mask:
        from av2t_core.labelstudio import rle

        value = region["value"]
        if value.get("format") != "rle":
            raise ValueError(f"its format is {value.get('format')!r} and not rle")
        return rle.decode(value.get("rle"), picture_size(region))


class BrushLabels(MagicWand, ImageTag):
    """As the magic wand's."""

    kind = "mask"

    def write(self, mask: Mask) -> list[Value]:
        from av2t_core.labelstudio import rle

        return [{"format": "rle", "rle": rle.encode(mask)}]
