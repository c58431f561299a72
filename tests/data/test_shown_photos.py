"""Which photos a page may show."""

from macrec_hf.data.shown_photos import is_address, only_inside


def test_addresses_are_opened_by_the_browser():
    assert all(map(is_address, ("https://shop.example/a.jpg", "HTTP://shop.example", "data:image/png;base64,AA")))
    assert not any(map(is_address, ("images/a.jpg", "httpd/a.jpg", b"data:", None, "")))


def test_only_photos_inside_the_folder_are_shown(tmp_path, caplog):
    shop = tmp_path
    shop_folder, outside = shop / "shop", shop / "images/a.jpg"
    outside.parent.mkdir()
    outside.touch()
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
