"""Product photos drawn from a seed: the kind of product is a shape, its colour and pattern fill it.

Each kind is drawn once, large, as a map of parts (body, seams, trim ...). A photo is that map, slightly turned and
moved, with every part given its colour and light, on a pale ground with a soft shadow, then made small.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

PHOTO_SIZE = 160  # pixels; drawn twice as large and made small, which smooths the edges
_CANVAS = 2 * PHOTO_SIZE

COLOURS = {
    "red": (200, 42, 48),
    "orange": (240, 132, 40),
    "yellow": (246, 206, 62),
    "green": (64, 148, 72),
    "blue": (52, 92, 196),
    "purple": (124, 70, 168),
    "pink": (240, 138, 176),
    "grey": (92, 96, 104),
}
PATTERNS = ("plain", "stripes", "dots", "checks", "zigzag")

# Parts of a drawing. Body and seam take the product's colour; the others look the same on every product.
_GROUND, _BODY, _SEAM, _DARK, _CREAM, _WOOD, _METAL = range(7)
_FIXED = {_DARK: (58, 50, 48), _CREAM: (244, 240, 230), _WOOD: (170, 120, 74), _METAL: (150, 152, 158)}


class _Pen:
    """Draws parts in coordinates from 0 to 1, y downwards, onto a map of part numbers."""

    def __init__(self) -> None:
        self.map = Image.new("L", (_CANVAS, _CANVAS), _GROUND)
        self._draw = ImageDraw.Draw(self.map)

    def shape(self, part: int, *points: Sequence[float]) -> None:
        self._draw.polygon([(x * _CANVAS, y * _CANVAS) for x, y in points], fill=part)

    def blob(self, part: int, *points: Sequence[float]) -> None:
        """A closed smooth curve through `points` (Catmull-Rom)."""
        nodes = np.array(points)
        before, after, later = (np.roll(nodes, shift, axis=0) for shift in (1, -1, -2))
        t = np.linspace(0, 1, 16, endpoint=False)[:, None, None]
        curve = nodes + t / 2 * (after - before)
        curve = curve + t**2 / 2 * (2 * before - 5 * nodes + 4 * after - later)
        curve = curve + t**3 / 2 * (3 * nodes - before - 3 * after + later)
        self.shape(part, *curve.transpose(1, 0, 2).reshape(-1, 2).tolist())

    def oval(self, part: int, left: float, top: float, right: float, bottom: float) -> None:
        self._draw.ellipse([side * _CANVAS for side in (left, top, right, bottom)], fill=part)

    def ring(self, part: int, left: float, top: float, right: float, bottom: float, width: float) -> None:
        box = [side * _CANVAS for side in (left, top, right, bottom)]
        self._draw.ellipse(box, outline=part, width=round(width * _CANVAS))

    def arc(
        self, part: int, left: float, top: float, right: float, bottom: float, start: float, end: float, width: float
    ) -> None:
        box = [side * _CANVAS for side in (left, top, right, bottom)]
        self._draw.arc(box, start, end, fill=part, width=round(width * _CANVAS))

    def box(self, part: int, left: float, top: float, right: float, bottom: float, radius: float = 0.0) -> None:
        box = [side * _CANVAS for side in (left, top, right, bottom)]
        self._draw.rounded_rectangle(box, radius * _CANVAS, fill=part)

    def line(self, part: int, width: float, *points: Sequence[float]) -> None:
        scaled = [(x * _CANVAS, y * _CANVAS) for x, y in points]
        self._draw.line(scaled, fill=part, width=round(width * _CANVAS), joint="curve")


def _t_shirt(pen: _Pen) -> None:
    pen.shape(_BODY, (0.37, 0.18), (0.63, 0.18), (0.75, 0.23), (0.93, 0.42), (0.81, 0.53), (0.73, 0.45), (0.74, 0.86),
              (0.26, 0.86), (0.27, 0.45), (0.19, 0.53), (0.07, 0.42), (0.25, 0.23))  # fmt: skip
    pen.oval(_SEAM, 0.37, 0.09, 0.63, 0.29)
    pen.oval(_GROUND, 0.395, 0.06, 0.605, 0.265)
    pen.box(_GROUND, 0.37, 0.05, 0.63, 0.178)
    for line in [((0.27, 0.25), (0.27, 0.46)), ((0.73, 0.25), (0.73, 0.46)), ((0.26, 0.83), (0.74, 0.83))]:
        pen.line(_SEAM, 0.009, *line)
    pen.line(_SEAM, 0.009, (0.095, 0.39), (0.215, 0.50))
    pen.line(_SEAM, 0.009, (0.905, 0.39), (0.785, 0.50))


def _mug(pen: _Pen) -> None:
    pen.ring(_SEAM, 0.54, 0.36, 0.88, 0.72, 0.065)
    pen.box(_BODY, 0.18, 0.27, 0.66, 0.84, 0.07)
    pen.oval(_BODY, 0.18, 0.19, 0.66, 0.35)
    pen.oval(_CREAM, 0.20, 0.205, 0.64, 0.335)
    pen.oval(_DARK, 0.225, 0.235, 0.615, 0.333)


def _backpack(pen: _Pen) -> None:
    pen.ring(_SEAM, 0.41, 0.05, 0.59, 0.25, 0.035)
    pen.line(_SEAM, 0.06, (0.25, 0.30), (0.14, 0.50), (0.19, 0.78))
    pen.line(_SEAM, 0.06, (0.75, 0.30), (0.86, 0.50), (0.81, 0.78))
    pen.blob(_BODY, (0.5, 0.12), (0.70, 0.18), (0.78, 0.36), (0.79, 0.70), (0.73, 0.86), (0.5, 0.885), (0.27, 0.86),
             (0.21, 0.70), (0.22, 0.36), (0.30, 0.18))  # fmt: skip
    pen.arc(_SEAM, 0.26, 0.18, 0.74, 0.66, 195, 345, 0.016)
    pen.box(_SEAM, 0.285, 0.515, 0.715, 0.825, 0.06)
    pen.box(_BODY, 0.30, 0.53, 0.70, 0.81, 0.05)
    pen.line(_DARK, 0.014, (0.32, 0.595), (0.68, 0.595))
    pen.box(_METAL, 0.60, 0.585, 0.625, 0.655, 0.01)


def _lamp(pen: _Pen) -> None:
    pen.line(_METAL, 0.035, (0.5, 0.5), (0.5, 0.86))
    pen.oval(_METAL, 0.32, 0.82, 0.68, 0.92)
    pen.oval(_WOOD, 0.435, 0.60, 0.565, 0.80)
    pen.shape(_BODY, (0.36, 0.12), (0.64, 0.12), (0.82, 0.54), (0.18, 0.54))
    pen.oval(_BODY, 0.18, 0.50, 0.82, 0.58)
    pen.oval(_CREAM, 0.37, 0.10, 0.63, 0.14)
    pen.arc(_SEAM, 0.18, 0.50, 0.82, 0.58, 0, 180, 0.014)


def _umbrella(pen: _Pen) -> None:
    pen.line(_METAL, 0.02, (0.5, 0.08), (0.5, 0.80))
    pen.arc(_WOOD, 0.5 - 0.01, 0.72, 0.64, 0.90, 0, 180, 0.035)
    pen.line(_WOOD, 0.035, (0.507, 0.62), (0.507, 0.81))
    pen.blob(_BODY, (0.5, 0.14), (0.72, 0.20), (0.88, 0.36), (0.95, 0.56), (0.90, 0.52), (0.5, 0.50), (0.10, 0.52),
             (0.05, 0.56), (0.12, 0.36), (0.28, 0.20))  # fmt: skip
    for left in (0.05, 0.275, 0.5, 0.725):
        pen.oval(_GROUND, left, 0.49, left + 0.225, 0.62)
    pen.line(_METAL, 0.02, (0.5, 0.55), (0.5, 0.64))
    for x in (0.275, 0.725):
        pen.line(_SEAM, 0.009, (0.5, 0.14), ((0.5 + x) / 2 + (x - 0.5) * 0.30, 0.32), (x, 0.55))
    pen.line(_SEAM, 0.009, (0.5, 0.14), (0.5, 0.55))


def _sneaker(pen: _Pen) -> None:
    pen.blob(_BODY, (0.10, 0.40), (0.16, 0.34), (0.27, 0.43), (0.40, 0.34), (0.47, 0.33), (0.60, 0.48), (0.80, 0.545),
             (0.90, 0.62), (0.91, 0.69), (0.5, 0.72), (0.09, 0.71), (0.08, 0.55))  # fmt: skip
    pen.blob(_CREAM, (0.80, 0.56), (0.91, 0.62), (0.945, 0.71), (0.86, 0.71), (0.74, 0.70), (0.75, 0.62))
    pen.box(_CREAM, 0.06, 0.68, 0.96, 0.76, 0.035)
    pen.line(_METAL, 0.010, (0.07, 0.735), (0.95, 0.735))
    pen.line(_SEAM, 0.012, (0.42, 0.36), (0.38, 0.55), (0.52, 0.66))
    pen.line(_SEAM, 0.012, (0.22, 0.42), (0.23, 0.67))
    for x, y in ((0.47, 0.375), (0.52, 0.425), (0.57, 0.475), (0.62, 0.515)):
        pen.line(_CREAM, 0.019, (x - 0.055, y + 0.055), (x + 0.01, y - 0.01))


def _armchair(pen: _Pen) -> None:
    for x in (0.20, 0.74):
        pen.shape(_WOOD, (x, 0.80), (x + 0.06, 0.80), (x + 0.045, 0.93), (x + 0.015, 0.93))
    pen.box(_BODY, 0.20, 0.12, 0.80, 0.66, 0.13)
    pen.box(_SEAM, 0.235, 0.52, 0.765, 0.83, 0.04)
    pen.box(_BODY, 0.25, 0.505, 0.75, 0.655, 0.045)
    pen.box(_BODY, 0.25, 0.675, 0.75, 0.82, 0.02)
    for left in (0.09, 0.745):
        pen.box(_SEAM, left - 0.008, 0.402, left + 0.173, 0.838, 0.075)
        pen.box(_BODY, left, 0.41, left + 0.165, 0.83, 0.07)


def _cap(pen: _Pen) -> None:
    pen.blob(_BODY, (0.12, 0.62), (0.13, 0.44), (0.24, 0.29), (0.42, 0.23), (0.58, 0.29), (0.68, 0.44), (0.70, 0.62),
             (0.40, 0.66))  # fmt: skip
    pen.blob(_SEAM, (0.40, 0.60), (0.66, 0.555), (0.84, 0.60), (0.95, 0.70), (0.86, 0.725), (0.64, 0.68), (0.40, 0.67))
    pen.arc(_SEAM, 0.28, 0.22, 0.58, 1.00, 190, 268, 0.010)
    pen.arc(_SEAM, 0.30, 0.22, 0.62, 1.00, 272, 345, 0.010)
    pen.oval(_SEAM, 0.39, 0.205, 0.46, 0.25)
    for x, y in ((0.28, 0.42), (0.53, 0.40)):
        pen.oval(_DARK, x, y, x + 0.022, y + 0.022)


def _teapot(pen: _Pen) -> None:
    pen.ring(_SEAM, 0.04, 0.36, 0.36, 0.74, 0.055)
    pen.blob(_BODY, (0.66, 0.52), (0.78, 0.50), (0.85, 0.38), (0.95, 0.34), (0.945, 0.40), (0.89, 0.46), (0.84, 0.66),
             (0.68, 0.76))  # fmt: skip
    pen.blob(_BODY, (0.48, 0.33), (0.68, 0.40), (0.76, 0.58), (0.68, 0.77), (0.48, 0.83), (0.28, 0.77), (0.20, 0.58),
             (0.28, 0.40))  # fmt: skip
    pen.oval(_SEAM, 0.33, 0.30, 0.63, 0.40)
    pen.oval(_BODY, 0.345, 0.275, 0.615, 0.375)
    pen.oval(_WOOD, 0.435, 0.20, 0.525, 0.29)
    pen.box(_SEAM, 0.36, 0.805, 0.60, 0.85, 0.02)


def _dress(pen: _Pen) -> None:
    for x in (0.40, 0.60):
        pen.line(_SEAM, 0.03, (x, 0.08), (x, 0.22))
    pen.shape(_BODY, (0.36, 0.19), (0.43, 0.23), (0.5, 0.25), (0.57, 0.23), (0.64, 0.19), (0.66, 0.30), (0.61, 0.44),
              (0.39, 0.44), (0.34, 0.30))  # fmt: skip
    pen.blob(_BODY, (0.40, 0.43), (0.60, 0.43), (0.70, 0.66), (0.80, 0.88), (0.66, 0.915), (0.5, 0.90), (0.34, 0.915),
             (0.20, 0.88), (0.30, 0.66))  # fmt: skip
    pen.box(_SEAM, 0.388, 0.42, 0.612, 0.465, 0.01)
    for top, bottom in ((0.45, 0.36), (0.5, 0.5), (0.55, 0.64)):
        pen.line(_SEAM, 0.008, (top, 0.47), (bottom, 0.88))


_DRAWINGS = {
    "T-shirt": _t_shirt,
    "mug": _mug,
    "backpack": _backpack,
    "lamp": _lamp,
    "umbrella": _umbrella,
    "sneaker": _sneaker,
    "armchair": _armchair,
    "cap": _cap,
    "teapot": _teapot,
    "dress": _dress,
}
KINDS = tuple(_DRAWINGS)


def render_photo(kind: str, colour: str, pattern: str, rng: np.random.Generator) -> Image.Image:
    """Draws one product photo.

    Args:
        kind: one of `KINDS`. colour: one of `COLOURS`. pattern: one of `PATTERNS`.
        rng: turns, moves and lights each photo a little differently.

    Returns:
        RGB, PHOTO_SIZE x PHOTO_SIZE.
    """
    parts = _placed(kind, rng)
    tint = np.array(COLOURS[colour]) * rng.uniform(0.93, 1.07) + rng.normal(0, 4, 3)
    pale = tint + (np.array([250, 248, 242]) - tint) * 0.62
    second = np.roll(_pattern(pattern), rng.integers(0, _CANVAS, 2), axis=(0, 1))
    body = parts == _BODY
    product = _small(body * (1 - second))[..., None] * tint + _small(body * second)[..., None] * pale
    product += _small(parts == _SEAM)[..., None] * tint * 0.74
    for part, fixed in _FIXED.items():
        product += _small(parts == part)[..., None] * np.array(fixed)
    empty = _small(parts == _GROUND)
    ground = (238 + rng.uniform(-8, 8)) * _shadow(empty)
    picture = product * _light()[..., None] + (empty * ground)[..., None]
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def _small(large: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels: the share of each final pixel that a part covers, float32 (PHOTO_SIZE, PHOTO_SIZE)."""
    large = large.astype(np.float32)
    return (large[::2, ::2] + large[1::2, ::2] + large[::2, 1::2] + large[1::2, 1::2]) / 4


@cache
def _light() -> np.ndarray:
    """From the upper left, and a little less towards the sides."""
    across, down = np.meshgrid(np.linspace(-1, 1, PHOTO_SIZE), np.linspace(-1, 1, PHOTO_SIZE))
    return (1.04 - 0.13 * across - 0.10 * down - 0.06 * across**2).astype(np.float32)


@cache
def _part_map(kind: str) -> Image.Image:
    pen = _Pen()
    _DRAWINGS[kind](pen)
    return pen.map


def _placed(kind: str, rng: np.random.Generator) -> np.ndarray:
    """The map of parts, turned by up to 4 degrees, moved and resized a little."""
    angle, size = np.deg2rad(rng.uniform(-4, 4)), rng.uniform(0.98, 1.14)
    shift = rng.uniform(-0.02, 0.02, 2) * _CANVAS
    turn = size * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = np.array([_CANVAS / 2, _CANVAS / 2])
    offset = middle - turn @ (middle + shift)
    matrix = (*turn[0], offset[0], *turn[1], offset[1])
    placed = _part_map(kind).transform((_CANVAS, _CANVAS), Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST)
    return np.asarray(placed)


def _shadow(empty: np.ndarray) -> np.ndarray:
    """How much light the ground gets: less below and to the right of the product."""
    shape = Image.fromarray(((1 - empty) * 255).astype(np.uint8))
    half = shape.resize((PHOTO_SIZE // 2, PHOTO_SIZE // 2)).filter(ImageFilter.GaussianBlur(3))
    soft = np.asarray(half.resize(shape.size, Image.Resampling.BILINEAR), dtype=np.float32) / 255
    return 1 - 0.30 * np.roll(soft, (PHOTO_SIZE // 40, PHOTO_SIZE // 50), axis=(0, 1))


@cache
def _pattern(pattern: str) -> np.ndarray:
    """1 where the second tone is, 0 elsewhere; float32 (_CANVAS, _CANVAS). Repeats without a seam."""
    down, across = np.mgrid[:_CANVAS, :_CANVAS] / _CANVAS
    if pattern == "plain":
        tone = np.zeros((_CANVAS, _CANVAS))
    elif pattern == "stripes":
        tone = (down / 0.1) % 1 < 0.45
    elif pattern == "dots":
        odd_row = np.floor(down / 0.1) % 2
        tone = np.hypot((across / 0.1 + 0.5 * odd_row) % 1 - 0.5, (down / 0.1) % 1 - 0.5) < 0.27
    elif pattern == "checks":
        tone = ((across / 0.125) % 1 < 0.5) / 2 + ((down / 0.125) % 1 < 0.5) / 2
    else:
        tone = (down / 0.125 + np.abs((across / 0.125) % 1 - 0.5)) % 1 < 0.42
    return tone.astype(np.float32)
