"""Small copies of photos: made once, and nothing else than them is ever named to the browser."""

import os
from io import BytesIO

import pytest
from app_tools import shop_folder
from PIL import Image

from macrec_hf.app.photos import THUMBNAIL, Thumbnails
from macrec_hf.app.shop import ShownItem


def test_photos_are_copied_small_and_once(tmp_path):
    big = tmp_path / "big.png"
    Image.new("RGBA", (900, 500), (255, 0, 0, 0)).save(big)
    folder = tmp_path / "small"
    folder.mkdir()
    thumbnails = Thumbnails(folder)
    found = thumbnails.address(ShownItem("a", "A", str(big)))
    assert found == thumbnails.address(ShownItem("b", "B", str(big))) and found.startswith("gradio_api/file=")
    (written,) = folder.iterdir()
    assert found.endswith(str(written))
    with Image.open(written) as small:
        assert small.size == (THUMBNAIL, round(500 / 900 * THUMBNAIL))
        assert small.getpixel((5, 5)) == (255, 255, 255)  # what is transparent lies on white
    original = shop_folder() / "shop/images/p0001.jpg"
    assert str(original) not in thumbnails.address(ShownItem("c", "C", str(original)))
    assert len(list(folder.iterdir())) == 2


def test_contents_of_files_are_shown_too(tmp_path):
    written = BytesIO()
    Image.new("RGB", (400, 300), "red").save(written, "PNG")
    found = Thumbnails(tmp_path).address(ShownItem("a", "A", written.getvalue()))
    with Image.open(found.removeprefix("gradio_api/file=")) as small:
        assert small.size == (240, 180)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40)),
        lambda path: path.write_bytes(b""),
        lambda path: path.mkdir(),
        os.mkfifo,
        lambda path: path.symlink_to(path),
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: Image.new("RGB", (30_000, 1)).save(path, "PNG"),
    ],
)
def test_odd_photos_close_no_page(tmp_path, make):
    make(tmp_path / "odd.jpg")
    found = Thumbnails(tmp_path).address(ShownItem("a", "A", str(tmp_path / "odd.jpg")))
    assert found is None or Image.open(found.removeprefix("gradio_api/file=")).size == (240, 1)


def test_addresses_stay_and_unreadable_photos_are_none(tmp_path):
    thumbnails = Thumbnails(tmp_path)
    for address in ("https://shop.example/a.jpg", "data:image/png;base64,AA", None):
        assert thumbnails.address(ShownItem("a", "A", address)) == address
    (tmp_path / "text.jpg").write_text("no photo")
    for path in ("text.jpg", "none.jpg"):
        assert thumbnails.address(ShownItem("a", "A", str(tmp_path / path))) is None
