"""Photos of every kind are opened as the same picture in 8 bits, small, and whatever is wrong with one is a reason."""

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from macrec_hf.data.photos import FORMATS, open_photo, read_photo, thumbnail

GREY = np.kron(np.random.default_rng(3).permutation(256)[:192].reshape(12, 16), np.ones((4, 4), int)).astype(np.uint8)
GREY[0, :2] = 0, 255
RGB = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=-1)
ALPHA = GREY[::-1, ::-1]
WIDE = GREY.astype(np.uint16) * 257
PALETTE = np.random.default_rng(4).integers(0, 256, (256, 3)).astype(np.uint8)


def saved(pixels, kind="PNG", **how):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    written = io.BytesIO()
    image.save(written, kind, **how)
    return written.getvalue()


def png(pixels, depth, colour_type, transparent=b"", palette=b""):
    """A PNG as its specification says, byte by byte."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = pixels.shape[:2]
    if depth < 8:
        bits = (pixels[..., None] >> np.arange(depth - 1, -1, -1)) & 1
        rows = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    else:
        rows = pixels.astype(">u2" if depth == 16 else np.uint8)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    optional = [(b"PLTE", palette), (b"tRNS", transparent)]
    chunks = [(b"IHDR", head), *(pair for pair in optional if pair[1]), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*pair) for pair in chunks)


def tiff(numbers, sample_format, photometric=1):
    """A plain TIFF of one number a pixel; `sample_format` 1 is unsigned, 2 signed, 3 floating point."""
    numbers = np.ascontiguousarray(numbers)
    order = ">" if numbers.dtype.byteorder == ">" else "<"
    height, width = numbers.shape
    size = numbers.nbytes
    bits = 8 * numbers.dtype.itemsize
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, height)]
    tags += [(279, size), (339, sample_format)]
    entries = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in tags)
    mark = b"MM\0*" if order == ">" else b"II*\0"
    head, rest = mark + struct.pack(order + "I", 8 + size), struct.pack(order + "H", len(tags)) + entries + bytes(4)
    return head + numbers.tobytes() + rest


def over_white(colours, alpha):
    share = alpha.astype(float)[..., None] / 255
    return np.round(colours * share + 255 * (1 - share))


def without(value):
    return np.where(value == GREY, 255, GREY)


UNIT = GREY / 255
GREYS = {
    "8 bits": saved(GREY),
    "16 bits": saved(WIDE),
    "16 bits, multiples of 256": png(GREY.astype(np.uint16) * 256, 16, 0),
    "8 bits in 16": png(GREY.astype(np.uint16), 16, 0),
    "TIFF of 16 bits": saved(WIDE, "TIFF"),
    "TIFF of 16 bits, packed": saved(WIDE, "TIFF", compression="tiff_lzw"),
    "TIFF of 16 bits, big-endian": tiff(WIDE.astype(">u2"), 1),
    "TIFF of 16 bits, white is zero": tiff(65535 - WIDE, 1, photometric=0),
    "TIFF of 16 bits with signs": tiff((WIDE.astype(int) - 32768).astype(np.int16), 2),
    "TIFF of 32 bits from 0 to 65,535": saved(WIDE.astype(np.int32), "TIFF"),
    "TIFF of 32 bits from 0 to 255": saved(GREY.astype(np.int32), "TIFF"),
    "TIFF of 32 bits, all used": tiff((GREY.astype(np.uint64) * 16_843_009).astype(np.uint32), 1),
    "TIFF of 32 bits with signs": tiff((GREY.astype(int) * 8_421_504 + 9).astype(np.int32), 2),
    "floats from 0 to 1": saved(UNIT.astype(np.float32), "TIFF"),
    "floats from 0 to 1, big-endian": tiff(UNIT.astype(">f4"), 3),
    "floats from 0 to 255": saved(GREY.astype(np.float32), "TIFF"),
    "floats from 0 to 65,535": saved(WIDE.astype(np.float32), "TIFF"),
    "floats from -1 to 1": saved((2 * UNIT - 1).astype(np.float32), "TIFF"),
    "PGM of 16 bits": b"P5 64 48 65535\n" + WIDE.astype(">u2").tobytes(),
}


@pytest.mark.parametrize("name", GREYS)
def test_greys_of_every_depth_are_the_picture_in_8_bits(name):
    assert np.array_equal(open_photo(GREYS[name]), np.stack([GREY] * 3, axis=-1))


def test_numbers_that_are_no_pixels_are_white():
    numbers = UNIT.astype(np.float32)
    numbers[5, :3] = np.nan, np.inf, -0.01  # the last: what a sharpening filter leaves
    found = np.asarray(open_photo(saved(numbers, "TIFF")))[..., 0]
    expected = GREY.copy()
    expected[5, :3] = 255, 255, 0
    assert np.array_equal(found, expected)


def test_a_picture_of_one_grey_keeps_it():
    for pixels in (np.full((9, 9), 128 * 257, np.uint16), np.full((9, 9), 128 / 255, np.float32)):
        assert np.asarray(open_photo(saved(pixels, "TIFF"))).ravel().tolist() == [128] * 243
    assert not np.asarray(open_photo(saved(np.zeros((9, 9), np.float32), "TIFF"))).any()


TRANSPARENT = {
    "a grey of 8 bits": (png(GREY, 8, 0, struct.pack(">H", 77)), without(77)),
    "a grey of 16 bits": (png(WIDE, 16, 0, struct.pack(">H", 77 * 257)), without(77)),
    "a grey of 4 bits": (png(GREY >> 4, 4, 0, struct.pack(">H", 5)), np.where(GREY >> 4 == 5, 255, (GREY >> 4) * 17)),
    "black of 1 bit": (png(GREY >> 7, 1, 0, struct.pack(">H", 0)), np.full(GREY.shape, 255)),
    "one of a palette": (png(GREY, 8, 3, b"\xff" * 9 + b"\0", PALETTE.tobytes()), None),
}


@pytest.mark.parametrize("name", TRANSPARENT)
def test_a_transparent_colour_is_white(name):
    data, expected = TRANSPARENT[name]
    expected = np.where(GREY[..., None] == 9, 255, PALETTE[GREY]) if expected is None else expected[..., None]
    assert np.array_equal(open_photo(data), np.broadcast_to(expected, (48, 64, 3)))


def test_a_transparent_colour_of_8_and_16_bits_a_channel():
    colour = RGB[5, 5]
    expected = np.where((RGB == colour).all(-1, keepdims=True), 255, RGB)
    for depth, factor in ((8, 1), (16, 257)):
        key = struct.pack(">3H", *(int(value) * factor for value in colour))
        assert np.array_equal(open_photo(png(RGB.astype(np.uint16) * factor, depth, 2, key)), expected)


@pytest.mark.parametrize("depth", [8, 16])
def test_half_transparent_pictures_lie_on_white(depth):
    grey = np.stack([GREY, ALPHA], axis=-1).astype(np.uint16) * (257 if depth == 16 else 1)
    colours = np.concatenate([RGB, ALPHA[..., None]], axis=-1).astype(np.uint16) * (257 if depth == 16 else 1)
    found = np.asarray(open_photo(png(grey, depth, 4))).astype(int)
    assert np.abs(found - over_white(GREY[..., None], ALPHA)).max() <= 1
    found = np.asarray(open_photo(png(colours, depth, 6))).astype(int)
    assert np.abs(found - over_white(RGB, ALPHA)).max() <= 1


def test_a_palette_with_half_transparent_colours_lies_on_white():
    shares = np.random.default_rng(5).integers(0, 256, 256).astype(np.uint8)
    found = np.asarray(open_photo(png(GREY, 8, 3, shares.tobytes(), PALETTE.tobytes()))).astype(int)
    assert np.abs(found - over_white(PALETTE[GREY], shares[GREY])).max() <= 1


def test_other_colours_and_animations_show_their_first_picture():
    image, black = Image.fromarray(RGB), Image.new("RGB", (64, 48))
    cmyk = image.convert("CMYK")
    assert np.array_equal(open_photo(saved(cmyk, "TIFF")), cmyk.convert("RGB"))
    few = image.quantize(100)
    animated = saved(few, "GIF", save_all=True, append_images=[Image.new("P", (64, 48))])
    assert np.array_equal(open_photo(animated), few.convert("RGB"))
    for kind, how in (("WEBP", {"lossless": True}), ("PNG", {})):
        assert np.array_equal(open_photo(saved(image, kind, save_all=True, append_images=[black], **how)), RGB)
    for kind in ("BMP", "TIFF", "PPM", "TGA", "QOI", "PCX", "SGI"):
        assert np.array_equal(open_photo(saved(image, kind)), RGB), kind


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_photos_are_set_upright(kind, tmp_path):
    turned = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_270, 5: Image.Transpose.TRANSPOSE}
    image = Image.fromarray(RGB).resize((256, 192), Image.Resampling.NEAREST)
    for orientation, turn in turned.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        how = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
        data = saved(image, kind, exif=exif, **how)
        (tmp_path / "photo").write_bytes(data)
        expected = np.asarray(image.transpose(turn)).astype(int)
        for source in (data, tmp_path / "photo", str(tmp_path / "photo")):
            assert np.abs(np.asarray(open_photo(source)).astype(int) - expected).max() < 16
        assert np.abs(np.asarray(open_photo(data, 96)).astype(int) - expected[::2, ::2]).mean() < 40


def test_a_damaged_note_of_the_camera_spoils_no_photo():
    data = saved(Image.fromarray(RGB), "JPEG", quality=100, subsampling=0, exif=b"Exif\0\0II*\0\xff\xff\xff\x7f\1\2")
    assert open_photo(data).size == (64, 48)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "I;16", "1"])
def test_large_photos_are_shrunk_by_a_whole_number(mode, monkeypatch):
    monkeypatch.setattr("macrec_hf.data.photo_depth.STRIP", 5_000)  # many strips
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (40, 30, 4)).astype(np.uint8)
    whole = {
        "I;16": lambda: Image.fromarray(blocks[..., 0].astype(np.uint16) * 257),
        "1": lambda: Image.fromarray(blocks[..., 0] > 127),
        "RGBA": lambda: Image.fromarray(blocks),
    }.get(mode, lambda: Image.fromarray(blocks[..., :3]).convert(mode))()
    small = open_photo(saved(whole), size=30)
    large = saved(whole.resize((210, 280), Image.Resampling.NEAREST))
    assert np.array_equal(open_photo(large, size=30), small)
    assert open_photo(large, size=106).size == (210, 280)
    assert open_photo(large, size=105).size == (105, 140)
    assert open_photo(large, size=100).size == (105, 140)


def test_the_mean_of_a_shrunk_photo_stays():
    pixels = np.random.default_rng(1).integers(0, 256, (301, 403, 3)).astype(np.uint8)
    small = np.asarray(open_photo(saved(pixels), size=100)).astype(float)
    assert small.shape == (101, 135, 3)
    means = pixels[:300, :402].reshape(100, 3, 134, 3, 3).mean(axis=(1, 3))
    assert np.abs(small[:100, :134] - means).max() < 0.6


def test_ribbons_are_bounded():
    ribbon = open_photo(saved(Image.new("RGB", (20_000, 90), "red")), size=90)
    assert ribbon.size[0] * ribbon.size[1] <= 16 * 90**2
    assert open_photo(saved(Image.new("RGB", (100_000, 1))), size=50).size == (33_334, 1)


def test_what_is_no_photo_gives_a_reason(tmp_path):
    (tmp_path / "half.png").write_bytes(saved(RGB)[:700])
    (tmp_path / "words.jpg").write_text("no photo")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "drawing.eps").write_bytes(saved(Image.fromarray(RGB), "EPS"))
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    reasons = {
        "half.png": "half.png: OSError: image file is truncated",
        "words.jpg": "words.jpg: no picture, or in none of the formats JPEG, PNG",
        "empty.jpg": "empty.jpg: an empty file",
        "drawing.eps": "drawing.eps: no picture, or in none of the formats",
        "folder.jpg": "folder.jpg: a folder, no file",
        "pipe.jpg": "pipe.jpg: no regular file",
        "none.jpg": "no such file",
        "words.jpg/a.jpg": "no such file",
    }
    for name, reason in reasons.items():
        with pytest.raises(ValueError, match=f"^{reason}"):
            open_photo(tmp_path / name)
        assert read_photo(str(tmp_path / name)).startswith(reason) and thumbnail(tmp_path / name) is None
    planes = tiff(np.concatenate([WIDE] * 3), 1, photometric=2)
    for tag, before, after in ((257, 144, 48), (277, 1, 3), (279, 3 * WIDE.nbytes, WIDE.nbytes)):
        planes = planes.replace(struct.pack("<HHII", tag, 4, 1, before), struct.pack("<HHII", tag, 4, 1, after))
    planes = planes.replace(struct.pack("<HHII", 278, 4, 1, 144), struct.pack("<HHII", 284, 4, 1, 2))
    others = {
        None: "no photo named",
        "https://shop.example/a.jpg": "a URL: download the photo",
        "D:\\shop\\a.jpg": "a path of Windows",
        "/items/d:/shop/a.jpg": "a path of Windows",
        "/dev/zero": "zero: no regular file",
        "x" * 300 + ".jpg": "^x{79}….{1,40}too long$",
        "\ud83d.jpg": "^\ufffd.jpg: Unicode",
        "a\0\x1b[1mb.jpg": r"a  \[1mb.jpg: ValueError: embedded null",
        b"": "an empty file",
        b"\xff\xd8\xff\xe0": "a JPEG that cannot be read|SyntaxError|no picture",
        tiff(UNIT, 3): "a TIFF that cannot be read: unknown pixel mode",
        planes: "a TIFF with a plane of 16 bits for each colour",
    }
    for source, reason in others.items():
        with pytest.raises(ValueError, match=reason):
            open_photo(source)
    assert "EPS" not in FORMATS


def test_damaged_photos_give_a_reason_or_a_photo():
    rng = np.random.default_rng(7)
    image = Image.fromarray(RGB)
    wholes = [
        saved(image, "JPEG"),
        saved(image, "PNG"),
        saved(image, "GIF"),
        saved(image, "WEBP"),
        saved(image, "TIFF", compression="tiff_lzw"),
        saved(WIDE, "TIFF"),
        saved(image, "BMP"),
    ]
    kinds = set()
    for whole in wholes:
        for _ in range(60):
            damaged = bytearray(whole)
            for place in rng.integers(0, min(len(whole), 400), 4):
                damaged[place] = rng.integers(0, 256)
            found = read_photo(bytes(damaged[: rng.integers(len(whole) // 2, len(whole) + 1)]))
            kinds.add(type(found).__name__)
            assert found if isinstance(found, str) else found.mode == "RGB"
    assert kinds == {"str", "Image"}


def test_too_many_pixels_are_refused_before_they_are_decoded():
    rows = zlib.compress(b"\0" * 1000)
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for name, content in ((b"IHDR", head), (b"IDAT", rows), (b"IEND", b"")):
        data += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    with pytest.raises(ValueError, match="too large: 60,000 x 60,000 pixels take 18.0 GB to decode, more than 1 GB"):
        open_photo(data)


def test_a_photo_of_thousands_of_scans_is_refused():
    whole = saved(Image.fromarray(RGB), "JPEG", progressive=True, quality=90)
    assert open_photo(whole).size == (64, 48)
    last = whole.rindex(b"\xff\xda")
    with pytest.raises(ValueError, match=r"a JPEG of 3,00\d scans, expected at most 200"):
        open_photo(whole[:-2] + whole[last:-2] * 3000 + whole[-2:])


MEASURE = """
import sys
from macrec_hf.data.photos import open_photo
open_photo(sys.argv[1])  # what decoding needs once
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024
before = peak()
photos = [open_photo(path) for path in sys.argv[2:]]
print(peak() - before, *{photo.size for photo in photos})
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc")
def test_large_photos_take_little_memory(tmp_path):
    small = tmp_path / "small.jpg"
    Image.new("RGB", (64, 64)).save(small)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8))
    noise.resize((6000, 4500)).save(tmp_path / "camera.jpg", quality=85)
    Image.new("RGB", (8000, 8000), "red").save(tmp_path / "flat.png")
    for name, times, most in (("camera.jpg", 20, 150), ("flat.png", 3, 300)):
        command = [sys.executable, "-c", MEASURE, small, *[tmp_path / name] * times]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
        assert float(done.stdout.split()[0]) < most, done.stdout  # in full size: 81 MB each, and 256 MB


def test_thumbnails_tell_nothing_of_the_camera():
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
    small = thumbnail(saved(Image.fromarray(RGB).resize((640, 480)), "JPEG", exif=exif), 96)
    with Image.open(io.BytesIO(small)) as photo:
        assert photo.size == (72, 96) and not photo.getexif() and "exif" not in photo.info
        upright = ImageOps.exif_transpose(photo)
        assert upright.size == photo.size
