import base64
import binascii
import io
import struct
import zlib

from av2t_core.labelstudio.controls import ImageTag, Mask, Region, Size, Value, picture_size

_URL = "data:image/png;base64,"
_PNG_HEAD = struct.Struct(">8s4x4sII")  # signature, length of the first chunk, its name, width, height


class BitmaskLabels(ImageTag):
    """A PNG that is black and opaque where the mask is, and transparent elsewhere."""

    kind = "mask"
    erasable = True

    def write(self, mask: Mask) -> list[Value]:
        import numpy as np
        from PIL import Image

        rgba = np.zeros((*mask.shape, 4), np.uint8)
        rgba[mask, 3] = 255
        png = io.BytesIO()
        Image.fromarray(rgba).save(png, "PNG")
        return [{"imageDataURL": _URL + base64.b64encode(png.getvalue()).decode()}]

    def read(self, region: Region, shape: Size) -> Mask:
        import numpy as np
        from PIL import Image

        from av2t_core.labelstudio.rle import OPAQUE

        url = region["value"].get("imageDataURL")
        if not isinstance(url, str) or not url.startswith(_URL):
            raise ValueError("it has no PNG")
        size = picture_size(region)
        try:
            png = base64.b64decode(url.removeprefix(_URL), validate=True)
            signature, chunk, width, height = _PNG_HEAD.unpack_from(png)
            if signature != b"\x89PNG\r\n\x1a\n" or chunk != b"IHDR":
                raise ValueError("no PNG")
            if fits := (height, width) == size:  # before a picture of any size is unpacked
                with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
                    image.verify()  # its checksums, which loading does not look at
                with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
                    transparent = image.has_transparency_data
                    alpha = np.asarray(image.convert("RGBA").getchannel("A"))
        except (binascii.Error, struct.error, zlib.error, OSError, SyntaxError, ValueError):
            raise ValueError("its PNG is damaged") from None
        if not fits:
            raise ValueError(f"its PNG is {width}x{height}, and its picture {size[1]}x{size[0]}")
        if not transparent:
            raise ValueError("its PNG has no alpha, which is where the mask is")
        return alpha > OPAQUE
