"""Paths of photos as other systems write them, and which photos a page may show."""

import unicodedata
from pathlib import Path

import pytest

from macrec_hf.data.photo_paths import only_inside, photo_path


@pytest.fixture
def shop(tmp_path):
    for name in ("images/a.jpg", "images/b c.jpg", "images/50% off.jpg", "images/50%20.jpg", "images/b\\d.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / unicodedata.normalize("NFC", "images/café.jpg")).touch()
    (tmp_path / unicodedata.normalize("NFD", "images/thé.jpg")).touch()
    return tmp_path


def test_paths_are_understood_as_other_systems_write_them(shop):
    folder = shop / "images"
    wanted = {
        "images/a.jpg": "a.jpg",
        "./images/a.jpg": "a.jpg",
        "images\\a.jpg": "a.jpg",
        ".\\images\\a.jpg": "a.jpg",
        " images/a.jpg\r": "a.jpg",
        "images/b\\d.jpg": "b\\d.jpg",  # a name of this system stays what it is
        "images/50% off.jpg": "50% off.jpg",
        "images/50%20.jpg": "50%20.jpg",
        "images/b%20c.jpg": "b c.jpg",
        "file:images/a.jpg": "a.jpg",
        f"file://{folder}/a.jpg": "a.jpg",
        f"FILE://localhost{folder}/b%20c.jpg": "b c.jpg",
        f"file:{folder}/50%25%20off.jpg": "50% off.jpg",
        f"{folder}/a.jpg": "a.jpg",
    }
    for written, name in wanted.items():
        assert Path(photo_path(written, shop)) == folder / name, written
    for form in ("NFC", "NFD"):
        for name in ("images/café.jpg", "images/thé.jpg"):
            assert Path(photo_path(unicodedata.normalize(form, name), shop)).is_file()


def test_what_leads_nowhere_is_kept_for_the_message(shop):
    for written in ("D:\\shop\\a.jpg", "d:/shop/a.jpg", "\\\\server\\shop\\a.jpg", "https://shop.example/a%20b.jpg"):
        assert photo_path(written, shop) == written
    assert photo_path("file:///C:/shop/a%20b.jpg", shop) == "C:/shop/a b.jpg"
    for written in ("images/none.jpg", "images/none%20.jpg", "images\\none.jpg", "a\0b.jpg"):
        assert photo_path(written, shop) == str(shop / written)


def test_only_photos_inside_the_folder_are_shown(shop, caplog):
    shop_folder, outside = shop / "shop", shop / "images/a.jpg"
    (shop_folder / "photos").mkdir(parents=True)
    inside = shop_folder / "photos/a.jpg"
    inside.touch()
    (shop_folder / "link.jpg").symlink_to(outside)
    (shop_folder / "linked").symlink_to(shop / "images")
    (shop_folder / "own.jpg").symlink_to(inside)
    (shop / "shop-2").mkdir()
    (shop / "shop-2/a.jpg").touch()
    (shop / "door").symlink_to(shop_folder)
    photos = [
        str(inside),
        str(shop_folder / "photos/../photos/a.jpg"),
        str(shop_folder / "own.jpg"),
        str(shop / "door/photos/a.jpg"),
        "https://shop.example/a.jpg",
        b"bytes",
        None,
        str(shop_folder / "none.jpg"),
    ]
    real = str(inside.resolve())
    expected = [real, real, real, real, *photos[4:7], str(shop_folder.resolve() / "none.jpg")]
    for folder in (shop_folder, shop / "door"):
        assert only_inside(photos, folder) == expected
    assert not caplog.records
    hidden = [
        outside,
        str(shop_folder / "../images/a.jpg"),
        str(shop_folder / "link.jpg"),
        str(shop_folder / "linked/a.jpg"),
        str(shop / "shop-2/a.jpg"),
        "/etc/passwd",
        "a\0b.jpg",
    ]
    assert only_inside([*hidden, str(inside)], shop_folder) == [None] * 7 + [real]
    assert "7 photos lie outside the folder of the items file" in caplog.text and "--allow-outside" in caplog.text
