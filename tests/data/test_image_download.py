"""Photos by URL, against a real HTTP server on loopback that fails in every way a server can."""

import io
import socket
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from macrec_hf.data.http_fetch import is_public
from macrec_hf.data.image_download import HOPELESS_AFTER, download_images, file_name, remove_old_photos
from macrec_hf.model.files import beside_of


def picture(kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 30)).save(buffer, kind)
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    """`/good/…` serves, `/together/…` eight at a time; `/flaky/N/…` answers 503 N times first; the rest fails as its
    name says."""

    def do_GET(self):
        server, kind = self.server, self.path.split("/")[1]
        with server.lock:
            server.hits[self.path] += 1
            hits = server.hits[self.path]
            server.active += 1
            server.most_active = max(server.most_active, server.active)
        if kind == "silent":
            server.released.wait(60)
        elif kind == "together":
            server.together.wait(60)
        if kind == "flaky" and hits <= int(self.path.split("/")[2]):
            self.answer(503, b"later")
        elif kind == "missing":
            self.answer(404, b"no")
        elif kind == "rude":
            self.wfile.write(b"HTTP/1.1 410 \x1b[31mred\rline " + b"x" * 5000 + b"\r\n\r\n")
        elif kind == "page":
            self.answer(200, b"<html>please log in</html>", "text/html")
        elif kind == "cut":
            body = picture()
            self.answer(200, body[: len(body) // 2] if hits == 1 else body, length=len(body))
        elif kind == "as":
            name = self.path.split("/")[2]
            other = {"wav": b"RIFF\1\2\3\4WAVEfmt ", "svg": b"<svg></svg>"}
            self.answer(200, other[name] if name in other else picture(name))
        elif kind.startswith("drip"):
            self.drip(kind)
        elif kind.startswith("to-"):
            places = {
                "file": "file:///etc/passwd",
                "ftp": "ftp://127.0.0.1/a.jpg",
                "here": server.url + "/good/there.jpg",
            }
            self.send_response(302)
            self.send_header("Location", places[kind[3:]])
            self.end_headers()
        elif kind == "moved":
            self.send_response(302)
            self.send_header("Location", "/good/there.jpg")
            self.end_headers()
        else:
            self.answer(200, picture("PNG" if self.path.endswith("png") else "JPEG"))
        with server.lock:
            server.active -= 1

    def answer(self, status, body, kind="image/jpeg", length=None):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def drip(self, kind):
        """One byte now and then: a picture's, the head's, or more than anybody waits for."""
        head = b"HTTP/1.1 200 OK\r\n" + (b"Content-Length: 900\r\n\r\n" if kind == "drip" else b"\r\n")
        content = (head if kind != "drip-head" else b"") + (head if kind == "drip-head" else picture()) * 9
        try:
            for byte in content:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(0.05)
        except OSError:
            pass

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hits, server.lock, server.active, server.most_active = Counter(), threading.Lock(), 0, 0
    server.released, server.together = threading.Event(), threading.Barrier(8)
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()


def fetch(server, paths: dict[str, str], folder, **kwargs):
    urls = {item: path if not path.startswith("/") else server.url + path for item, path in paths.items()}
    return download_images(urls, folder, **{"backoff": 0.01, "timeout": 5.0, "allow_private": True, **kwargs})


def test_photos_arrive_whole(server, tmp_path):
    paths = {"01": "/good/a.jpg", "x/..": "/good/b.png?size=9", "é": "/good/c", "m": "/moved/d.jpg"}
    report = fetch(server, paths, tmp_path)
    names = {item: file_name(item, server.url + path) for item, path in paths.items()}
    assert report.files == names and names["x/.."].startswith("x%2F...") and names["é"].startswith("%C3%A9.")
    assert [name.rpartition(".")[2] for name in names.values()] == ["jpg", "png", "jpg", "jpg"]
    assert (report.failed, report.fetched) == ({}, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(report.files.values())
    for name in report.files.values():
        assert Image.open(tmp_path / name).getpixel((3, 3))[0] > 150


def test_passing_failures_are_tried_again(server, tmp_path):
    report = fetch(server, {"a": "/flaky/2/a.jpg", "b": "/cut/b.jpg"}, tmp_path, retries=2)
    assert report.failed == {} and set(server.hits.values()) == {3, 2}
    assert Image.open(tmp_path / report.files["b"]).size == (8, 8)


def test_lasting_failures_are_named_and_do_not_stop_the_rest(server, tmp_path):
    paths = {"a": "/flaky/9/a.jpg", "b": "/missing/b.jpg", "c": "/page/c.jpg", "d": "photo", "e": "/good/e.jpg"}
    report = fetch(server, paths, tmp_path, retries=1)
    assert list(report.files) == ["e"]
    rude = fetch(server, {"f": "/rude/f.jpg"}, tmp_path).failed["f"]
    assert rude.startswith("HTTP 410  [31mred line xxx") and len(rude) <= 300
    server.hits.pop("/rude/f.jpg")
    assert report.failed["a"].startswith("HTTP 503") and report.failed["b"].startswith("HTTP 404")
    assert report.failed["c"] == "no picture but text/html, 26 bytes"
    assert "expected an http address, got 'photo'" in report.failed["d"]
    # what another try cannot change is not tried again
    assert server.hits == {"/flaky/9/a.jpg": 2, "/missing/b.jpg": 1, "/page/c.jpg": 1, "/good/e.jpg": 1}
    assert [path.name for path in tmp_path.iterdir()] == [report.files["e"]]  # nothing half-written


def test_a_server_that_does_not_answer(server, tmp_path):
    report = fetch(server, {"a": "/silent/a.jpg"}, tmp_path, retries=1, timeout=0.1)
    assert "timed out" in report.failed["a"].lower() and not server.released.is_set()


def test_a_second_run_fetches_only_what_is_not_there(server, tmp_path):
    """As after a run that was stopped: two files are there, one of them empty, and a partial one."""
    paths = {str(number): f"/good/{number}.jpg" for number in range(6)}
    names = [file_name(item, server.url + path) for item, path in paths.items()]
    (tmp_path / names[0]).write_bytes(picture())
    (tmp_path / names[1]).touch()
    partial = beside_of(tmp_path / names[2])
    partial.write_bytes(picture()[:50])
    report = fetch(server, paths, tmp_path)
    assert len(report.files) == 6 and report.fetched == 5 and "/good/0.jpg" not in server.hits
    assert Image.open(tmp_path / names[1]).size == (8, 8) and not partial.exists()
    report = fetch(server, paths, tmp_path)
    assert len(report.files) == 6 and report.fetched == 0 and sum(server.hits.values()) == 5


def test_failures_are_tried_again_by_the_next_run(server, tmp_path):
    assert fetch(server, {"a": "/flaky/1/a.jpg"}, tmp_path, retries=0).failed
    assert fetch(server, {"a": "/flaky/1/a.jpg"}, tmp_path, retries=0).files.keys() == {"a"}


def test_it_is_parallel(server, tmp_path):
    """No request is answered before seven others are there."""
    paths = {str(number): f"/together/{number}.jpg" for number in range(32)}
    report = fetch(server, paths, tmp_path, workers=16, timeout=120.0)
    assert len(report.files) == 32 and server.most_active > 4 and not server.together.broken


def test_offline_it_gives_up(server, tmp_path):
    """Where nothing at all can be fetched, it does not wait for every single address."""
    paths = {str(number): f"/missing/{number}.jpg" for number in range(5_000)}
    report = fetch(server, paths, tmp_path, workers=4)
    assert len(report.failed) == 5_000 and HOPELESS_AFTER <= len(server.hits) < 2_500
    assert report.failed["4999"].startswith("not tried")


def test_names_belong_to_one_item_and_one_address_alone():
    long = "é" * 400
    items = ["a/b", "a%2Fb", "a b", "..", "A", "a", "CON", "\ud83d", long, long + "x", "x" + long]
    names = [file_name(item, url) for item in items for url in ("http://h/x.JPEG", "http://h/y.JPEG?a.png")]
    # also where a file system takes capitals and small letters for the same
    assert len({name.lower() for name in names}) == len(names) == 22
    assert all("/" not in name and name.endswith(".jpeg") and len(name.encode()) < 200 for name in names)
    assert file_name("a", "http://h/x").endswith(".jpg") and file_name("a", "http://h/x.avif#y").endswith(".avif")


def test_ids_of_any_length_and_addresses_of_any_kind_are_one_photo_each(server, tmp_path):
    """One bad row is that row's failure."""
    paths = {
        "i" * 5000: "/good/a.jpg",
        "b": "http://[::1",
        "c": "http://shop example/c.jpg",
        "d": "http://" + "d" * 300 + ".example/d.jpg",
        "e": "file:///etc/passwd",
        "f": "http://x:y@127.0.0.1/f.jpg",
        "g": "http://127.0.0.1:99999/g.jpg",
        "h": "://",
        "\ud83d": "/good/h.jpg",
        "j": "  " + server.url + "/good/a b/é.jpg ",
        "k": server.url.replace("http://", "HTTP:\\\\") + "\\good\\k%20k%.jpg",
        "l": server.url + "/good/\nl.jpg",
    }
    assert "got None" in download_images({"a": None}, tmp_path / "none").failed["a"]
    report = fetch(server, paths, tmp_path, retries=0)
    assert report.files.keys() == {"i" * 5000, "\ud83d", "j", "k", "l"}
    assert {"/good/a%20b/%C3%A9.jpg", "/good/k%20k%25.jpg", "/good/l.jpg"} < server.hits.keys()
    for item in "befgh":
        assert "expected an http address" in report.failed[item], report.failed
    assert all(report.failed.values())


def test_a_slow_server_has_a_deadline(server, tmp_path):
    start = time.time()
    paths = {"a": "/drip/a.jpg", "b": "/drip-head/b.jpg", "c": "/drip-endless/c.jpg", "d": "/good/d.jpg"}
    report = fetch(server, paths, tmp_path, timeout=0.3)
    assert list(report.files) == ["d"] and time.time() - start < 40  # each takes 45
    assert all("not whole after" in report.failed[item] for item in "abc"), report.failed
    assert [path.name for path in tmp_path.iterdir()] == [report.files["d"]]


def test_addresses_of_this_machine_are_refused(server, tmp_path):
    port = server.server_port
    hosts = ["127.0.0.1", "localhost", "127.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"]
    paths = {host: f"http://{host}:{port}/good/a.jpg" for host in hosts}
    paths |= {"10.0.0.7": "http://10.0.0.7/a.jpg", "169.254.169.254": "http://169.254.169.254/latest/meta-data"}
    report = fetch(server, paths, tmp_path, allow_private=False)
    assert not report.files and not server.hits
    for reason in report.failed.values():
        assert "of this machine or its network: --allow-private-addresses" in reason


def test_a_redirect_leads_to_no_other_scheme_nor_to_this_machine(server, tmp_path, monkeypatch):
    report = fetch(server, {"a": "/to-file/a.jpg", "b": "/to-ftp/b.jpg"}, tmp_path, retries=0)
    assert not report.files and "file" in report.failed["a"] and "ftp" in report.failed["b"]
    # "public.example" is the server, as if it had a public address; where it sends us is private
    found = socket.getaddrinfo

    def resolve(host, *args, **kwargs):
        return found("127.0.0.1" if host == "public.example" else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr("macrec_hf.data.http_fetch.is_public", lambda address: False)
    url = f"http://public.example:{server.server_port}"
    assert (
        "public.example is an address of this machine"
        in fetch(server, {"a": url}, tmp_path, allow_private=False).failed["a"]
    )
    judged = iter([True] + [False] * 9)
    monkeypatch.setattr("macrec_hf.data.http_fetch.is_public", lambda address: next(judged))
    report = fetch(server, {"a": f"{url}/to-here/a.jpg"}, tmp_path, allow_private=False)
    assert "127.0.0.1 is an address of this machine" in report.failed["a"] and server.hits["/good/there.jpg"] == 0


def test_is_public():
    public = ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "1.1.1.1"]
    private = ["10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1", "::"]
    private += ["255.255.255.255", "fe80::1%eth0", "fd00::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::1"]
    assert [address for address in public if not is_public(address)] == []
    assert [address for address in private if is_public(address)] == []


def test_a_proxy_of_this_network_may_be_used_for_names_but_not_for_private_addresses(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.delenv("no_proxy", raising=False)
    paths = {
        "a": "http://shop.example/good/a.jpg",
        "b": "http://10.0.0.7/good/b.jpg",
        "c": "http://localhost/good/c.jpg",
    }
    report = fetch(server, paths, tmp_path, allow_private=False)
    assert report.files.keys() == {"a"} and server.hits.keys() == {"http://shop.example/good/a.jpg"}


def test_only_pictures_are_kept(server, tmp_path):
    kinds = ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF"]
    report = fetch(server, {kind: f"/as/{kind}" for kind in kinds} | {"wav": "/as/wav", "svg": "/as/svg"}, tmp_path)
    assert list(report.files) == kinds and report.failed["wav"].startswith("no picture but")


def test_old_photos_of_the_same_items_are_removed(tmp_path):
    url, other, long = "http://h/a.jpg", "http://h/b.jpg", "x" * 500
    kept = [file_name("a", url), file_name(long, url), file_name("not here", other), "a.jpg", "mine.png"]
    gone = [file_name("a", other), file_name(long, other), file_name("b", url)]
    for name in kept + gone:
        (tmp_path / name).touch()
    remove_old_photos(tmp_path, ["a", "b", long], kept[:2])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
    remove_old_photos(tmp_path / "none", ["a"], ())


def test_a_folder_that_cannot_be_written_ends_the_run(server, tmp_path):
    paths = {str(number): f"/good/{number}.jpg" for number in range(3000)}
    (tmp_path / "photos").write_text("a file")
    with pytest.raises(OSError, match="photos"):
        fetch(server, paths, tmp_path / "photos")
