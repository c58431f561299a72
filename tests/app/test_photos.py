"""Small copies of photos: made once, and nothing else than them is ever named to the browser."""

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


def test_addresses_stay_and_unreadable_photos_are_none(tmp_path):
    thumbnails = Thumbnails(tmp_path)
    for address in ("https://shop.example/a.jpg", "data:image/png;base64,AA", None):
        assert thumbnails.address(ShownItem("a", "A", address)) == address
    (tmp_path / "text.jpg").write_text("no photo")
    for path in ("text.jpg", "none.jpg"):
        assert thumbnails.address(ShownItem("a", "A", str(tmp_path / path))) is None
