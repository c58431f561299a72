"""Names that are folders, repositories or neither: one clear error, at once."""

import time

import pytest

from macrec_hf import SemanticIdTable
from macrec_hf.cli.main import main
from macrec_hf.model.files import hub_folder

WANTED = "a model directory or a repository of the Hub"


@pytest.fixture
def no_network(monkeypatch):
    """A Hub that nobody answers for."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")


def test_a_folder_is_itself(tmp_path):
    assert hub_folder(tmp_path, ["*"], WANTED) == tmp_path


@pytest.mark.parametrize("name", ["./modle", "../runs/modle", "~/modle", "runs/modle/", "a/b/modle", "/runs/modle"])
def test_what_can_only_be_a_path_is_not_asked_of_the_hub(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("the Hub was asked"))
    with pytest.raises(FileNotFoundError, match="no such directory, and a repository has an id of the form user/name"):
        hub_folder(name, ["*"], WANTED)


def test_a_near_name_is_proposed(tmp_path, monkeypatch, no_network):
    (tmp_path / "runs" / "model").mkdir(parents=True)
    (tmp_path / "runs" / "quite-other").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match=r"(?s)'runs/modle' to be a model directory .* Did you mean runs/model\?$"):
        hub_folder("runs/modle", ["*"], WANTED)
    with pytest.raises(FileNotFoundError, match=r"user/name\. Did you mean runs/model\?$"):
        hub_folder("./runs/modle", ["*"], WANTED)
    with pytest.raises(OSError) as error:
        hub_folder("runs/zzz", ["*"], WANTED)
    assert "Did you mean" not in str(error.value)


@pytest.mark.parametrize(
    "words",
    [
        ["recommend", "--model", "runs/modle", "--history", "i1"],
        ["evaluate", "--model", "runs/modle", "--interactions", "x.csv"],
        ["train", "--semantic-ids", "runs/modle", "--interactions", "x.csv", "--output", "out"],
        ["doctor", "runs/modle"],
    ],
    ids=lambda words: words[0],
)
def test_every_verb_answers_at_once_without_a_network(words, tmp_path, monkeypatch, no_network, capsys):
    (tmp_path / "runs" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.csv").write_text("user_id,item_id,timestamp\nu,i1,1\n")  # the tables are looked at first
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    assert main(words) == 1
    error = capsys.readouterr().err
    assert "xpected 'runs/modle' to be" in error and error.strip().endswith("Did you mean runs/model?")
    assert sum(waits) < 5  # the Hub's own retries wait 23 seconds


def test_a_table_of_a_subfolder_is_named_where_it_is_missing(tmp_path):
    (tmp_path / "ids").mkdir()
    with pytest.raises(FileNotFoundError, match="Expected semantic_ids.json in .*ids, found none"):
        SemanticIdTable.from_pretrained(tmp_path, subfolder="ids")
