"""`--device` of every verb that computes: what is not there is refused before the work, auto is what it was."""

import argparse

import pytest
import torch
from hub_tools import quantize, tiny_shop, train

from macrec_hf.cli.common import add_device_flag, named_device, ranking_device
from macrec_hf.cli.main import build_parser, main

VERBS = {
    "embed": "--items i.csv --output o",
    "quantize": "--embeddings e --output o",
    "train": "--interactions i.csv --semantic-ids s --output o",
    "evaluate": "--model m --interactions i.csv",
    "recommend": "--model m --history i1",
    "app": "m",
}


def parsed(*words):
    parser = argparse.ArgumentParser()
    add_device_flag(parser, "auto")
    return parser.parse_args(words)


@pytest.mark.parametrize("verb", VERBS)
def test_a_device_that_is_not_there_is_refused(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.mps, "is_available", lambda: False)
    (tmp_path / "e").mkdir()
    (tmp_path / "i.csv").write_text("user_id,item_id,timestamp,title\nu,i1,1,a title\n")
    assert build_parser(verb).parse_args(VERBS[verb].split()).device == "auto"
    assert main([verb, *VERBS[verb].split(), "--device", "mps"]) == 1
    error = capsys.readouterr().err
    assert "--device mps: expected a device that is there, cpu" in error and error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["e", "i.csv"]


def test_auto_and_names(monkeypatch):
    for there in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert named_device(parsed()) is None and ranking_device(parsed()) == ("cuda" if there else "cpu")
        assert ranking_device(parsed("--device", "cpu")) == "cpu"
    with pytest.raises(ValueError, match="--device cuda: expected a device that is there, cpu, got none"):
        named_device(parsed("--device", "cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert named_device(parsed("--device", "cuda")) == "cuda"


def test_every_verb_computes_on_a_cpu_that_is_named(tmp_path, capsys):
    shop = tiny_shop(tmp_path)
    assert quantize(shop, "--device", "cpu") == 0, capsys.readouterr().err
    assert train(shop, "--device", "cpu") == 0, capsys.readouterr().err
    words = ["--model", str(shop / "model"), "--device", "cpu"]
    assert main(["evaluate", *words, "--interactions", str(shop / "interactions.csv"), "--num-beams", "3"]) == 0
    assert main(["recommend", *words, "--history", "i1"]) == 0
