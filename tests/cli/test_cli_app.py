"""`macrec app`: what it refuses, and the Space that it writes. tests/app/test_app_browser.py tries the page itself."""

import argparse
import json
import socket
import sys

import pytest
from app_tools import shop_folder

from macrec_hf.cli import main
from macrec_hf.cli.app import add_arguments


def app(*words):
    return main(["app", *map(str, words)])


def last_error(capsys):
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_a_space_is_written(tmp_path, capsys):
    folder = shop_folder()
    words = ["--items", folder / "items.jsonl", "--encoders", folder / "emb", "--title", "Ours"]
    assert app(folder / "model", *words, "--space", tmp_path / "space") == 0
    assert capsys.readouterr().out.startswith("A Space with the model, 39 photos, encoders for new items: ")
    files = {path.name for path in (tmp_path / "space").iterdir()}
    assert files == {
        "README.md",
        "app.py",
        "encoders",
        "items.jsonl",
        "macrec_hf",
        "model",
        "photos",
        "requirements.txt",
    }
    assert 'title="Ours"' in (tmp_path / "space" / "app.py").read_text()


def test_photos_outside_the_folder_are_shown_only_when_allowed(tmp_path, capsys, caplog):
    folder = shop_folder()
    rows = [json.loads(line) for line in (folder / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [{**row, "image": row["image"] and str((folder / row["image"]).resolve())} for row in rows]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = [folder / "model", "--items", tmp_path / "items.jsonl", "--space", tmp_path / "space"]
    assert app(*words) == 0
    assert "the model, 0 photos" in capsys.readouterr().out and "39 photos lie outside the folder" in caplog.text
    assert app(*words, "--allow-outside") == 0
    assert "the model, 39 photos" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "Expected 'nowhere' to be a model directory or a repository of the Hub"),
        (["{shop}/model", "--items", "{shop}/none.jsonl"], "none.jsonl"),
        (["{shop}/model", "--counts", "all"], "--counts all: expected --space and a model directory of this machine"),
        (["{shop}/model", "--encoders", "{shop}/model"], "--encoders: expected a folder that `macrec embed` wrote"),
    ],
)
def test_what_cannot_be_shown_is_said(words, message, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert app(*(word.format(shop=shop_folder()) for word in words)) == 1
    error = last_error(capsys)
    assert error.startswith("macrec app: error: ") and message in error


def test_a_port_in_use_is_said(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert app(shop_folder() / "model", "--port", port) == 1
    assert f"expected port {port} of 127.0.0.1 to be free" in last_error(capsys)


def test_without_gradio_it_is_said_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "macrec_hf.app.page", raising=False)
    assert app(shop_folder() / "model") == 1
    assert "pip install 'macrec-hf[app]'" in last_error(capsys)


def test_the_page_is_for_this_machine_alone_unless_asked():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args(["model"])
    assert args.host == "127.0.0.1" and args.share is False and args.browser is False
