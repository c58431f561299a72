"""Finished work is lost to nobody who did not ask for it, and a run is not taken for another."""

import json

import pytest
from hub_tools import quantize, train, trained_shop
from kill_points import make_shop, words_of

from macrec_hf.catalogue.embedding_store import EmbeddingStore
from macrec_hf.cli.demo import MADE, clear
from macrec_hf.cli.main import main
from macrec_hf.cli.run_folder import CHECKPOINTS
from macrec_hf.hub.saving import save_model_directory
from macrec_hf.model.semantic_ids import SemanticIdTable
from macrec_hf.training.checkpoints import checkpoints_in


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = trained_shop(tmp_path_factory.mktemp("shop"))
    make_shop(folder / "raw")
    return folder


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def refused(folder, run, capfd, found):
    before = stamps(folder)
    capfd.readouterr()
    assert run() == 1
    said = capfd.readouterr().err
    assert (
        f"expected a folder without finished work or other files that would be replaced, found {found}" in said
        and said.count("\n") == 1
    )
    assert "--overwrite replaces it; or choose another --output." in said
    assert stamps(folder) == before
    return said


@pytest.mark.parametrize("verb, found", [("embed", "item_ids.json"), ("prepare", "items.jsonl")])
def test_inputs_are_not_overwritten(shop, tmp_path, capfd, verb, found):
    output = tmp_path / "out"
    words = [word for word in words_of(verb, shop / "raw", "a", output) if word != "--overwrite"]
    assert main(words) == 0
    refused(output, lambda: main(words), capfd, found)
    other = words_of(verb, shop / "raw", "b", output)
    assert main(other) == 0
    (output / "notes.md").write_text("mine")
    name = {"embed": "text.npy", "prepare": "items.jsonl"}[verb]
    before = (output / name).read_bytes()
    assert main(words_of(verb, shop / "raw", "a", output)) == 0
    assert (output / name).read_bytes() != before and (output / "notes.md").read_text() == "mine"


@pytest.mark.parametrize(
    "verb, name, found", [(quantize, "ids", "semantic_ids.json"), (train, "model", "config.json")]
)
def test_results_of_trainings_are_not_overwritten(shop, capfd, verb, name, found):
    said = refused(shop / name, lambda: verb(shop), capfd, found)
    assert "--resume goes on with the run that made it" in said
    assert verb(shop, "--overwrite") == 0


def test_residual_k_means_are_no_exception(shop, tmp_path, capfd):
    words = ["quantize", "--embeddings", str(shop / "emb"), "--output", str(tmp_path / "out"), "--method"]
    words += ["residual-kmeans", "--num-levels", "2", "--codebook-size", "8"]
    assert main(words) == 0
    refused(tmp_path / "out", lambda: main(words), capfd, "semantic_ids.json")
    assert main([*words, "--overwrite"]) == 0


@pytest.mark.parametrize("verb", [quantize, train])
def test_checkpoints_are_work_too(shop, tmp_path, capfd, verb):
    kept = ["--output", str(tmp_path / "out"), "--keep-checkpoints"]
    assert verb(shop, *kept) == 0
    for name in ("semantic_ids.json", "config.json", "training_log.json"):  # as a run has it that was stopped
        (tmp_path / "out" / name).unlink(missing_ok=True)
    refused(tmp_path / "out", lambda: verb(shop, *kept), capfd, f"{CHECKPOINTS}/checkpoint-")


def test_an_earlier_run_is_not_resumed_in_place_of_a_new_one(shop, tmp_path, monkeypatch):
    """Its checkpoints may be of higher steps."""
    words = ["--output", str(tmp_path / "out"), "--keep-checkpoints"]
    assert quantize(shop, *words) == 0
    assert [path.name for path in checkpoints_in(tmp_path / "out" / CHECKPOINTS)] == ["checkpoint-6"]

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("macrec_hf.cli.quantize.write_all", killed)
    shorter = [*words, "--max-steps", "3", "--seed", "5"]
    assert quantize(shop, *shorter, "--overwrite") == 130
    monkeypatch.undo()
    assert [path.name for path in checkpoints_in(tmp_path / "out" / CHECKPOINTS)] == ["checkpoint-3"]
    assert quantize(shop, *shorter, "--resume") == 0
    assert json.loads((tmp_path / "out" / "report.json").read_text())["steps"] == 3


def test_resume_does_not_overwrite_what_no_training_has_left(shop, tmp_path, capfd):
    table = SemanticIdTable.from_pretrained(shop / "ids")
    table.save_pretrained(tmp_path / "ids")
    words = ["--output", str(tmp_path / "ids"), "--resume"]
    said = refused(tmp_path / "ids", lambda: quantize(shop, *words), capfd, "semantic_ids.json")
    assert "No training has left it, so that --resume cannot go on" in said
    assert quantize(shop, *words, "--overwrite") == 0


def test_a_folder_of_seeds_is_refused_by_its_first_finished_one(shop, tmp_path, capfd):
    words = ["--output", str(tmp_path / "seeds"), "--seeds", "1", "--max-steps", "1"]
    assert train(shop, *words) == 0
    refused(tmp_path / "seeds" / "seed-0", lambda: train(shop, *words), capfd, "config.json")
    assert train(shop, *words, "--resume") == 0


def test_a_smaller_catalogue_leaves_nothing_of_a_larger_one(shop, tmp_path):
    store = EmbeddingStore.open(shop / "emb")
    store.save(tmp_path / "out")
    store.select(["text"]).save(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"item_ids.json", "meta.json", "text.npy"}
    opened = EmbeddingStore.open(tmp_path / "out")
    opened.take([0, 3]).save(tmp_path / "out")
    assert EmbeddingStore.open(tmp_path / "out").item_ids == ["i0", "i3"]
    opened.save(tmp_path / "out")  # it still reads the files that it has opened
    assert EmbeddingStore.open(tmp_path / "out").fingerprint() == store.select(["text"]).fingerprint()


def test_the_demo_clears_its_own_and_nothing_else(tmp_path):
    for name in (*MADE, "notes.md"):
        (tmp_path / name).mkdir()
    clear(tmp_path)  # not of a demo
    assert all((tmp_path / name).is_dir() for name in MADE)
    (tmp_path / "users.jsonl").touch()
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "items.jsonl").touch()
    clear(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"users.jsonl", "shop", "notes.md"}


def test_a_model_directory_is_saved_over_one_beside_other_things(shop, tmp_path):
    from macrec_hf.model.recommender import MacRecRecommender

    recommender = MacRecRecommender.from_pretrained(shop / "model")
    folder = recommender.save_pretrained(tmp_path / "model")
    for name in (".git", CHECKPOINTS):
        (folder / name).mkdir()
        (folder / name / "kept").touch()
    (folder / "NOTES.md").write_text("mine")
    save_model_directory(folder, model=recommender.model, tokenizer=recommender.tokenizer, table=recommender.table)
    assert (folder / ".git" / "kept").is_file() and (folder / CHECKPOINTS / "kept").is_file()
    assert (folder / "NOTES.md").read_text() == "mine" and not (folder / "quantizer").exists()
    assert not [path for path in folder.iterdir() if path.name.startswith(".macrec")]
