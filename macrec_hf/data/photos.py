"""The one way in which every verb and page opens a photo: small, upright, RGB on white, in bounded memory."""

import io
import math
import os
import re
import stat
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO

from PIL import Image, ImageFile, JpegImagePlugin, TiffImagePlugin

from .photo_depth import eight_bits, raw_mode, strips
from .plain_text import whole_letters

# Raster formats that Pillow decodes itself. Left out: what it hands to other programs (EPS) or cannot decode alone.
FORMATS = (
    "JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "JPEG2000", "PPM", "PSD", "ICO", "PCX", "SGI", "QOI", "TGA",
)  # fmt: skip
SIZE = 512  # pixels of the shorter side that a photo keeps, unless its reader needs another number
MAX_AREA = 16  # times size², for photos like ribbons
MAX_BYTES = 1_000_000_000  # while one photo is decoded
LARGE = 40_000_000  # bytes: photos that need more are decoded one at a time
BYTES_PER_PIXEL = {"WEBP": 17, "AVIF": 14, "JPEG2000": 20}  # measured while decoding; the others keep 5 at most

MAX_SCANS = 200  # of a progressive JPEG; ten are usual
_OF_WINDOWS = re.compile(r"(?:^|/)[A-Za-z]:[\\/]")

_one_large = threading.Lock()


def open_photo(source: str | Path | bytes | None, size: int = SIZE) -> Image.Image:
    """Opens a photo that lies in a file or in memory.

    The first picture of an animation; set upright as its EXIF says; what is transparent lies on white; pictures of
    other depths than 8 bits are scaled to 8 bits. A photo much larger than `size` is shrunk while it is opened, by a
    whole number, so that large photos cost little memory.

    Args:
        source: path of a regular file, or the file's content.
        size: pixels that the shorter side keeps at least, where it has so many (a ribbon of a photo keeps fewer: at
            most `16 · size²` pixels in all); larger sides come out below twice that.

    Returns:
        PIL.Image.Image, mode RGB.

    Raises:
        ValueError: there is no photo, with the reason in a few words. Whatever is wrong, nothing else is raised.
    """
    if source is None:
        raise ValueError("no photo named")
    if isinstance(source, str) and source.lower().startswith(("http://", "https://")):
        raise ValueError("a URL: download the photo and give its path")
    try:
        with _opened(source) as file:
            image = _identify(file)
            large = _shrink_while_decoding(image, file, size) > LARGE
            with _alone() if large else nullcontext():
                return _decode(image, size)
    except Exception as error:  # the decoders raise a dozen kinds; one bad photo must not stop a catalogue or a page
        raise ValueError(_reason(error, source)) from error


def read_photo(source: str | Path | bytes | None, size: int = SIZE) -> Image.Image | str:
    """`open_photo`, or the reason why there is none."""
    try:
        return open_photo(source, size)
    except ValueError as error:
        return str(error)


def thumbnail(source: str | Path | bytes | None, side: int = 96) -> bytes | None:
    """A JPEG of at most `side` times `side` pixels, without the camera's notes; None without a readable photo."""
    photo = read_photo(source, side)
    if isinstance(photo, str):
        return None
    photo.thumbnail((side, side))
    written = io.BytesIO()
    photo.save(written, "JPEG", quality=80)
    return written.getvalue()


class _NoPhotoError(Exception):
    """Why it is none, in words for people."""


@contextmanager
def _alone() -> Iterator[None]:
    with _one_large, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_BYTES is our limit
        yield


@contextmanager
def _opened(source: str | Path | bytes) -> Iterator[IO[bytes]]:
    if isinstance(source, bytes | bytearray | memoryview):
        yield io.BytesIO(source)
        return
    # Not to wait for a writer, should it be a pipe.
    handle = os.open(source, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    kind = os.fstat(handle).st_mode
    if not stat.S_ISREG(kind):
        os.close(handle)
        raise _NoPhotoError("a folder, no file" if stat.S_ISDIR(kind) else "no regular file")
    with open(handle, "rb") as file:
        yield file


def _identify(file: IO[bytes]) -> ImageFile.ImageFile:
    """The picture with its head read: as `PIL.Image.open`, whose limit counts a JPEG's pixels before it is shrunk."""
    Image.init()
    head = file.read(16)
    if not head:
        raise _NoPhotoError("an empty file")
    known = ""
    for name in FORMATS:
        factory, accept = Image.OPEN.get(name, (None, None))  # none: this Pillow was built without it
        if factory is None or (accept is not None and accept(head) is not True):
            continue
        file.seek(0)
        try:
            return factory(file, "")
        except (SyntaxError, IndexError, TypeError, struct.error) as error:
            known = known or (f"a {name} that cannot be read: {error}" if accept is not None else "")
    raise _NoPhotoError(known or f"no picture, or in none of the formats {', '.join(FORMATS)}")


def _shrink_while_decoding(image: ImageFile.ImageFile, file: IO[bytes], size: int) -> int:
    """Asks a JPEG for fewer pixels; returns the bytes that decoding takes.

    Raises:
        _NoPhotoError: too many.
    """
    width, height = image.size
    pixels, each = width * height, BYTES_PER_PIXEL.get(image.format or "", 5)
    needed = 0
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        if image.info.get("progressive") or not _in_one_scan(image, file):
            needed = 2 * image.layers * pixels  # the whole photo is held, as coefficients, before any pixel is made
            _check_scans(file)
        image.draft(None, (size, size))
        pixels = image.size[0] * image.size[1]
    elif isinstance(image, TiffImagePlugin.TiffImageFile):
        get = image.tag_v2.get
        if get(284) == 2 and get(277, 1) > 1 and max(get(258, (1,))) > 8:  # Pillow mixes them up
            raise _NoPhotoError("a TIFF with a plane of 16 bits for each colour, which cannot be read. Save it as PNG")
        pixels = max(pixels, get(322, 0) * get(323, 0))  # of one tile
        each += 4 * (get(0x0112, 1) != 1)  # Pillow turns it in full size
    needed += pixels * each
    if needed > MAX_BYTES:
        raise _NoPhotoError(
            f"too large: {width:,} x {height:,} pixels take {needed / 1e9:.1f} GB to decode, more than "
            f"{MAX_BYTES / 1e9:.0f} GB. Save it smaller"
        )
    return needed


def _in_one_scan(image: JpegImagePlugin.JpegImageFile, file: IO[bytes]) -> bool:
    """Whether the head of the first scan, which ends where the file now stands, names all components."""
    length = 6 + 2 * image.layers
    file.seek(-length - 2, os.SEEK_CUR)
    return file.read(5) == struct.pack(">HHB", 0xFFDA, length, image.layers)


def _check_scans(file: IO[bytes]) -> None:
    """A scan of a few bytes goes over the whole photo: thousands of them would take hours."""
    scans = 0
    while part := file.read(2**20):
        scans += part.count(b"\xff\xda")
    if scans > MAX_SCANS:
        raise _NoPhotoError(f"a JPEG of {scans:,} scans, expected at most {MAX_SCANS}. Save it again")


def _decode(image: ImageFile.ImageFile, size: int) -> Image.Image:
    raw = raw_mode(image)
    image.load()
    width, height = image.size
    factor = max(1, min(width, height) // size)
    while math.ceil(width / factor) * math.ceil(height / factor) > MAX_AREA * size**2:
        factor += 1
    to_rgb = eight_bits(image, raw)
    small = Image.new("RGB", (math.ceil(width / factor), math.ceil(height / factor)))
    for top, strip in strips(image, factor):
        small.paste(to_rgb(strip).reduce(factor) if factor > 1 else to_rgb(strip), (0, top // factor))
    turn = _TURNS.get(_orientation(image) or 1)
    return small if turn is None else small.transpose(turn)


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _orientation(image: Image.Image) -> int | None:
    if image.format == "TIFF":  # Pillow has turned it already
        return None
    try:
        return image.getexif().get(0x0112)
    except Exception:  # a damaged note of the camera's spoils no photo
        return None


def _reason(error: Exception, source: str | Path | bytes) -> str:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        if os.name != "nt" and _OF_WINDOWS.search(str(source)):
            return "a path of Windows, which leads nowhere here. Give paths from the items file's folder"
        return "no such file"
    if isinstance(error, OSError) and error.errno is not None:
        error = _NoPhotoError(error.strerror)
    text = str(error) if isinstance(error, _NoPhotoError) else f"{type(error).__name__}: {error}"
    if not isinstance(source, str | Path):
        return text
    name = Path(source).name
    text = text.replace(repr(str(source)), name).replace(str(source), name)
    told = whole_letters(f"{name if len(name) <= 80 else name[:79] + '…'}: {text[:300]}")
    return "".join(letter if letter.isprintable() else " " for letter in told)
