"""Pictures of every mode as 8-bit RGB on white: what 16 bits, floating point numbers and palettes mean."""

from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
from PIL import Image, ImageCms, ImageFile

STRIP = 2**20  # pixels that are converted at a time
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
_SIGNED = 2
_NEGLIGIBLE = 1 / 16  # of the brightest: what lies below zero by less is the ringing of a filter


def raw_mode(image: ImageFile.ImageFile) -> str:
    """How the file holds the pixels, such as "I;16B"; known only until they are loaded."""
    arguments = image.tile[0].args if image.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def strips(image: Image.Image, multiple: int = 1) -> Iterator[tuple[int, Image.Image]]:
    """A loaded picture in strips of full width: the first row of each, and the strip.

    Args:
        multiple: rows of each but the last are a multiple of it.
    """
    width, height = image.size
    rows = max(1, STRIP // (width * multiple)) * multiple
    for top in range(0, height, rows):
        yield top, image.crop((0, top, width, min(height, top + rows)))


def eight_bits(image: Image.Image, raw: str) -> Callable[[Image.Image], Image.Image]:
    """How strips of a picture become RGB.

    Numbers that are no bytes are scaled alike in all strips, from black to white as the file declares them; where it
    declares no white (32 bits), white is the smallest of 1, 255, 65,535 that fits the brightest pixel.

    Args:
        image: PIL.Image.Image of any mode, loaded.
        raw: its `raw_mode`.

    Returns:
        A function from a strip to RGB; what is transparent lies on white.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return _Scale(image)
    if image.mode == "LAB":
        transform = ImageCms.buildTransform(
            ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB"
        )
        return lambda strip: cast(Image.Image, ImageCms.applyTransform(strip, transform))
    transparency = _transparency(image, raw)
    if transparency is None and image.mode not in ("RGBA", "LA", "PA", "La", "RGBa"):
        return lambda strip: strip.convert("RGB")

    def on_white(strip: Image.Image) -> Image.Image:
        strip.info = {} if transparency is None else {"transparency": transparency}
        if strip.mode in ("La", "RGBa"):
            strip = strip.convert({"La": "LA", "RGBa": "RGBA"}[strip.mode])
        strip = strip.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip).convert("RGB")

    return on_white


def _transparency(image: Image.Image, raw: str) -> object:
    """The transparent colour in the 8 bits that Pillow has made of fewer or more."""
    value = image.info.get("transparency")
    if isinstance(value, tuple) and raw.startswith("RGB;16"):
        return tuple(number >> 8 for number in value)
    if isinstance(value, int) and raw in ("L;2", "L;4"):
        return value * {"L;2": 85, "L;4": 17}[raw]
    return value


class _Scale:
    """Greys of 16 and 32 bits and of floating point numbers to RGB.

    Args:
        image: loaded; its darkest and brightest pixels decide what its file does not say.
    """

    def __init__(self, image: Image.Image):
        tags = getattr(image, "tag_v2", {})
        self.bits = tags.get(_BITS, (16 if image.mode.startswith("I;16") else 32,))[0]
        self.signed = tags.get(_SAMPLE_FORMAT, (1,))[0] == _SIGNED
        self.inverted = tags.get(_PHOTOMETRIC) == 0  # Pillow turns bytes round, wider numbers not
        self.transparent = image.info.get("transparency")
        found = [(numbers.min(), numbers.max()) for _, strip in strips(image) if (numbers := self._finite(strip)).size]
        low, high = (min(low for low, _ in found), max(high for _, high in found)) if found else (0, 1)
        bounds = self._float_bounds if image.mode == "F" else self._integer_bounds
        self.black, self.white = bounds(float(low), float(high))

    def _numbers(self, strip: Image.Image) -> np.ndarray:
        numbers = np.asarray(strip)
        return numbers.view(np.uint32) if self.bits == 32 and not self.signed and strip.mode == "I" else numbers

    def _finite(self, strip: Image.Image) -> np.ndarray:
        numbers = self._numbers(strip)
        return numbers[np.isfinite(numbers)]

    def _integer_bounds(self, low: float, high: float) -> tuple[float, float]:
        if self.bits == 12:
            return 0, 4095
        if low < -high * _NEGLIGIBLE:
            return (-(2**15), 2**15 - 1) if low >= -(2**15) and high < 2**15 else (-(2**31), 2**31 - 1)
        top = 2**15 - 1 if self.signed else 65_535
        whites = (255, top) if self.bits == 16 else (255, 65_535, 2**31 - 1 if self.signed else 2**32 - 1)
        return 0, next(white for white in whites if high <= white)

    def _float_bounds(self, low: float, high: float) -> tuple[float, float]:
        if low < -high * _NEGLIGIBLE:
            return (-1, 1) if low >= -1 - _NEGLIGIBLE and high <= 1 + _NEGLIGIBLE else (low, max(high, low + 1))
        # Above 1 there may be highlights, up to 16 times white; a picture from 0 to 255 would be black below that.
        if high <= 16:
            return 0, 1
        return 0, next((white for white in (255, 65_535) if high <= white * (1 + _NEGLIGIBLE)), high)

    def __call__(self, strip: Image.Image) -> Image.Image:
        numbers = self._numbers(strip).astype(np.float64)
        grey = (numbers - self.black) / (self.white - self.black)
        grey = np.clip(1 - grey if self.inverted else grey, 0, 1)
        grey[np.isnan(numbers)] = 1  # no pixel there: white, as where it is transparent
        if isinstance(self.transparent, int):
            grey[numbers == self.transparent] = 1
        # Parts of equal width: 16 bits give their upper 8.
        return Image.fromarray(np.minimum(grey * 256, 255).astype(np.uint8)).convert("RGB")
