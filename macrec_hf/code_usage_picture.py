"""The model card's picture: how often each code is used, a panel per modality and level (paper, Figure 4)."""

import io

import numpy as np

_PANEL, _GAP, _HEAD, _LEFT = (150, 84), 14, 26, 64
_INK, _PALE, _BAR, _EVEN = (51, 51, 51), (236, 240, 244), (37, 99, 150), (214, 96, 32)


def code_usage_picture(table) -> bytes | None:
    """A PNG: the uses of every code, most used first, against the even share (the line).

    Args:
        table: a `SemanticIdTable`.

    Returns:
        None where pillow is absent, as it may be where only a model's code travels.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        return None
    width = _LEFT + table.num_levels * (_PANEL[0] + _GAP)
    height = _HEAD + len(table.modalities) * (_PANEL[1] + _GAP)
    picture = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=13)
    for level in range(table.num_levels):
        draw.text((_LEFT + level * (_PANEL[0] + _GAP), 6), f"level {level + 1}", fill=_INK, font=font)
    for row, modality in enumerate(table.modalities):
        top = _HEAD + row * (_PANEL[1] + _GAP)
        draw.text((4, top + 4), modality[:8], fill=_INK, font=font)
        for level in range(table.num_levels):
            uses = sorted_uses(table, modality, level)
            _draw_panel(draw, font, _LEFT + level * (_PANEL[0] + _GAP), top, uses)
    written = io.BytesIO()
    picture.save(written, "PNG", optimize=True)
    return written.getvalue()


def sorted_uses(table, modality: str, level: int) -> np.ndarray:
    """How many items have each code of a level, int64 `(codebook_size,)`, the most used first."""
    codes = table.codes[modality][:, level].numpy()
    return np.sort(np.bincount(codes[codes >= 0], minlength=table.codebook_size))[::-1]


def _draw_panel(draw, font, left: int, top: int, uses: np.ndarray) -> None:
    width, height = _PANEL
    draw.rectangle((left, top, left + width, top + height), fill=_PALE)
    highest = max(int(uses.max(initial=0)), 1)
    places = np.linspace(0, len(uses), width + 1).astype(int)  # of a pixel's codes the most used one is drawn
    for x, (start, stop) in enumerate(zip(places[:-1], np.maximum(places[1:], places[:-1] + 1), strict=True)):
        bar = round(height * int(uses[start:stop].max(initial=0)) / highest)
        if bar:
            draw.line((left + x, top + height - bar + 1, left + x, top + height), fill=_BAR)
    even = top + height - round(height * uses.mean() / highest)
    draw.line((left, even, left + width, even), fill=_EVEN)
    text = f"{int((uses > 0).sum())} of {len(uses)} used"
    draw.text((left + width - 6, top + 4), text, fill=_INK, font=font, anchor="ra")
