"""`macrec prepare` from published files to tables with photos, and on to the readers of the next verbs."""

import gzip
import json
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image
from published_layouts import WRITERS

from macrec_hf.cli import main
from macrec_hf.cli.prepare import FORMATS
from macrec_hf.data.histories import user_histories
from macrec_hf.data.readers import read_interactions, read_items
from macrec_hf.data.readers_published import LAYOUTS


@pytest.fixture
def photos(tmp_path):
    """The address of a server on loopback with one photo."""
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(folder / "drum.jpg")

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=folder)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_flag_names_every_layout():
    assert set(FORMATS) == set(LAYOUTS)


@pytest.mark.parametrize("layout", FORMATS)
def test_from_files_to_tables(tmp_path, photos, capfd, layout):
    WRITERS[layout](tmp_path / "raw", photos)
    words = ["prepare", "--format", layout, "--input", str(tmp_path / "raw"), "--output", str(tmp_path / "out")]
    assert main([*words, "--k-core", "2", "--allow-private-addresses"]) == 0
    out = capfd.readouterr().out.splitlines()
    assert len(out) == 2 and out[1].startswith(
        f"Next: macrec embed --items {tmp_path / 'out' / 'items.jsonl'} --output"
    )
    assert out[0].startswith(
        "2 users, 2 items (1 photos), 1 of them name no photo, 6 interactions (left out: 1 items without"
    )
    items = read_items(tmp_path / "out" / "items.jsonl")
    assert Image.open(items["image"][0]).getpixel((0, 0)) == pytest.approx((1, 2, 3), abs=3)
    assert items["image"][1] is None and not (tmp_path / "out" / "failed_images.jsonl").exists()
    rows = {item: row for row, item in enumerate(items["item_id"])}
    histories = user_histories(read_interactions(tmp_path / "out" / "interactions.csv"), rows)
    assert [history.tolist() for history in histories.items] == [[0, 1, 0], [1, 0, 1]]


def test_photos_that_fail_are_listed_and_fetched_by_the_next_run(tmp_path, photos, capfd):
    WRITERS["amazon2018"](tmp_path / "raw", photos)
    photo = tmp_path / "photos" / "drum.jpg"
    photo.rename(tmp_path / "hidden.jpg")
    words = ["prepare", "--format", "amazon2018", "--input", str(tmp_path / "raw"), "--output", str(tmp_path / "out")]
    words += ["--allow-private-addresses"]
    assert main([*words, "--k-core", "1"]) == 0
    assert "(0 photos, 1 failed: failed_images.jsonl; --overwrite tries again)" in capfd.readouterr().out
    failed = json.loads((tmp_path / "out" / "failed_images.jsonl").read_text())
    assert (failed["item_id"], failed["url"]) == ("0001", f"{photos}/drum.jpg") and "404" in failed["reason"]
    assert read_items(tmp_path / "out" / "items.jsonl")["image"].tolist() == [None, None]
    (tmp_path / "hidden.jpg").rename(photo)
    assert main([*words, "--k-core", "1", "--overwrite"]) == 0
    assert "(1 photos)" in capfd.readouterr().out and not (tmp_path / "out" / "failed_images.jsonl").exists()
    (found,) = (tmp_path / "out" / "images").iterdir()
    assert read_items(tmp_path / "out" / "items.jsonl")["image"][0] == str(found) and found.name.startswith("0001.")


def test_photos_of_this_machine_are_fetched_only_when_asked_for(tmp_path, photos, capfd):
    WRITERS["amazon2018"](tmp_path / "raw", photos)
    words = ["prepare", "--format", "amazon2018", "--input", str(tmp_path / "raw"), "--output", str(tmp_path / "out")]
    assert main([*words, "--k-core", "1"]) == 0
    assert "(0 photos, 1 failed" in capfd.readouterr().out
    failed = json.loads((tmp_path / "out" / "failed_images.jsonl").read_text())
    assert "127.0.0.1 is an address of this machine or its network: --allow-private-addresses" in failed["reason"]


def test_a_photo_of_another_address_is_fetched_again(tmp_path, photos):
    words = ["prepare", "--format", "amazon2018", "--input", str(tmp_path / "raw"), "--output", str(tmp_path / "out")]
    words += ["--k-core", "1", "--allow-private-addresses", "--overwrite"]
    Image.new("RGB", (8, 8), (200, 0, 0)).save(tmp_path / "photos" / "new.png")
    own = tmp_path / "out" / "images" / "0001.my.own.jpg"

    def colour(name):
        WRITERS["amazon2018"](tmp_path / "raw", photos)
        reviews, meta = tmp_path / "raw" / "Shop.json.gz", tmp_path / "raw" / "meta_Shop.json.gz"
        text = gzip.decompress(meta.read_bytes()).decode().replace(f"{photos}/drum.jpg", name and f"{photos}/{name}")
        meta.write_bytes(gzip.compress(text.encode()))
        assert reviews.exists() and main(words) == 0
        found = read_items(tmp_path / "out" / "items.jsonl")["image"][0]
        own.touch()
        others = sorted(path for path in own.parent.iterdir() if path != own)
        assert others == ([] if found is None else [Path(found)])  # no old photo stays
        return found and Image.open(found).getpixel((0, 0))

    assert colour("drum.jpg") == pytest.approx((1, 2, 3), abs=3)
    assert colour("new.png") == (200, 0, 0)
    assert colour("drum.jpg") == pytest.approx((1, 2, 3), abs=3)
    assert colour("none.jpg") is None  # the new address leads nowhere: not the old photo
    colour("new.png")
    Image.new("RGB", (8, 8), (0, 200, 0)).save(tmp_path / "photos" / "new.png")
    assert colour("new.png") == (200, 0, 0)  # the same address is not asked again


def test_urls_may_stay(tmp_path, photos):
    WRITERS["recbole"](tmp_path / "raw", photos)
    words = ["--format", "recbole", "--input", str(tmp_path / "raw"), "--output", str(tmp_path / "out"), "--no-images"]
    assert main(["prepare", *words, "--k-core", "1"]) == 0
    assert read_items(tmp_path / "out" / "items.jsonl")["image"].tolist() == [f"{photos}/drum.jpg", None]
    assert not (tmp_path / "out" / "images").exists()


def test_two_files_from_a_config(tmp_path, photos):
    WRITERS["amazon2018"](tmp_path / "raw", photos)
    files = [str(tmp_path / "raw" / name) for name in ("Shop.json.gz", "meta_Shop.json.gz")]
    config = {"format": "amazon2018", "input": files, "output": str(tmp_path / "out"), "k_core": 2, "no_images": True}
    (tmp_path / "shop.yaml").write_text(json.dumps(config))
    assert main(["prepare", "--config", str(tmp_path / "shop.yaml")]) == 0
    assert len(read_items(tmp_path / "out" / "items.jsonl")) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--input", "nowhere"], "nowhere: no such file or folder"),
        (["--format", "mql4grec"], "mql4grec: expected a file of interactions"),
    ],
)
def test_errors_are_one_line(tmp_path, capfd, flags, message):
    WRITERS["amazon2018"](tmp_path / "raw", "http://127.0.0.1:9")
    words = ["--format", "amazon2018", "--input", str(tmp_path / "raw"), "--output", str(tmp_path / "out")]
    assert main(["prepare", *words, *flags]) == 1
    err = capfd.readouterr().err.splitlines()
    assert err[-1].startswith("macrec prepare: error: ") and message in err[-1]


def test_an_output_that_cannot_be_written(tmp_path, capfd):
    WRITERS["recbole"](tmp_path / "raw", "http://127.0.0.1:9")
    (tmp_path / "out").write_text("a file")
    words = ["--format", "recbole", "--input", str(tmp_path / "raw"), "--output", str(tmp_path / "out")]
    assert main(["prepare", *words]) == 1
    assert "expected a folder that can be written" in capfd.readouterr().err
