"""What a training leaves in its folder, and what `--resume` says of a run that is finished."""

import os
from pathlib import Path

import pytest
from folder_listings import check_modes, check_names, documented
from hub_tools import quantize, tiny_shop, train

from macrec_hf.cli import main
from macrec_hf.cli.run_folder import CHECKPOINTS, EXAMPLES, FINISHED, is_finished
from macrec_hf.training.checkpoints import PSEUDO_LABELS, checkpoints_in

UMASK = 0o027
STAGES = {"ids": quantize, "model": train}


WHOLE = {
    "ids": documented("data_formats.md", "Semantic IDs"),
    "model": documented("architecture.md", "A model directory"),
}


def stamps(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Both stages with a umask of its own, the second with titles; and both with their checkpoints kept."""
    before = os.umask(UMASK)
    try:
        shop = tiny_shop(tmp_path_factory.mktemp("shop"))
        titles = "\n".join(["item_id,title", *(f"i{row},Thing {row}" for row in range(24))])
        (shop / "items.csv").write_text(titles)
        assert quantize(shop) == 0
        assert train(shop, "--items", str(shop / "items.csv")) == 0
        for stage, verb in STAGES.items():
            assert verb(shop, "--output", str(shop / "kept" / stage), "--keep-checkpoints") == 0
    finally:
        os.umask(before)
    return shop


@pytest.mark.parametrize("stage", STAGES)
def test_the_folder_holds_what_is_documented(made, stage):
    check_names(made / stage, WHOLE[stage])
    check_modes(made / stage, UMASK)
    pickles = [path for path in (made / stage).rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
    assert pickles == []


@pytest.mark.parametrize("stage", STAGES)
def test_checkpoints_that_are_kept_lie_apart(made, stage):
    folder = made / "kept" / stage
    expected = WHOLE[stage] - ({"item_titles.json"} if stage == "model" else set())
    check_names(folder, expected | {f"{CHECKPOINTS}/"})
    assert checkpoints_in(folder / CHECKPOINTS)
    assert (folder / CHECKPOINTS / PSEUDO_LABELS).is_file() == (stage == "ids")
    check_modes(folder, UMASK)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("place", ["", "kept"])
def test_a_finished_run_has_nothing_to_resume(made, capsys, place, stage):
    folder = made / place / stage
    before = stamps(folder)
    if not place:  # left by a kill while the checkpoints were removed
        (folder / CHECKPOINTS / "checkpoint-2").mkdir(parents=True)
        before[folder] = None
    more = ["--items", str(made / "items.csv")] if stage == "model" else []
    assert STAGES[stage](made, "--output", str(folder), "--resume", *more) == 0
    assert capsys.readouterr().out == f"Finished before, nothing to do: {folder}\n"
    after = stamps(folder)
    assert {**after, folder: None} == {**before, folder: None}
    assert (folder / CHECKPOINTS).exists() == bool(place)


@pytest.mark.parametrize(
    "stage, words, message",
    [
        ("ids", "--hidden-sizes 16", "--hidden-sizes was [8], is [16]. Repeat the flags"),
        ("ids", "--seed 3 --warmup 0.5", "--seed was 0, is 3; --warmup was 0.05, is 0.5. Repeat the flags"),
        ("ids", "--modalities text --contrastive-weights 0,0,0,0", "--embeddings has other contents. Repeat"),
        ("ids", "--max-steps 7", "--max-steps was 6, is 7. A run with --keep-checkpoints can be made longer"),
        ("model", "--d-ff 12", "--d-ff was 8, is 12. Repeat the flags of that run, choose another --output, or leave"),
        ("model", "--max-history 3", "--max-history was 6, is 3. Repeat"),
        ("model", "--tasks text_to_text", "--tasks was not given, is text_to_text. Repeat"),
        ("model", "--max-steps 3", "--max-steps was 4, is 3. Repeat the flags of that run"),
        ("model", "--max-steps 9", "--start-from {folder} with another --output trains the model further. A run with"),
        ("model", "--interactions {shop}/more.csv", "--interactions has other contents. Repeat the flags of that run"),
    ],
)  # fmt: skip
def test_other_settings_than_the_finished_run_s_are_refused(made, capsys, stage, words, message):
    folder, rows = made / stage, (made / "interactions.csv").read_text()
    (made / "more.csv").write_text(f"{rows}\nu1,i1,99\n")
    before = stamps(folder)
    assert STAGES[stage](made, "--resume", *words.format(shop=made).split()) == 1
    error = capsys.readouterr().err.splitlines()[-1]  # above it stands a progress bar
    assert f"--resume: expected the settings that the finished run in {folder} was made with" in error
    assert message.format(folder=folder) in error and "  " not in error
    assert stamps(folder) == before


def test_epochs_instead_of_steps_are_other_settings(made, capsys):
    flags = ["--output", str(made / "epochs"), "--learning-rate", "0.002"]
    sizes = ["--hidden-sizes", "8", "--codebook-size", "8", "--codebook-dim", "4", "--contrastive-weights", "0,0,0,0"]
    words = ["quantize", "--embeddings", str(made / "emb"), *sizes, *flags]
    assert main([*words, "--epochs", "2"]) == 0
    assert main([*words, "--epochs", "3", "--resume"]) == 1
    assert "--epochs was 2.0, is 3.0. A run with --keep-checkpoints can be made" in capsys.readouterr().err
    assert main([*words, "--max-steps", "2", "--resume"]) == 1
    assert "--max-steps was not given, is 2; --epochs was 2.0, is not given. Repeat" in capsys.readouterr().err


@pytest.mark.parametrize("stage", STAGES)
def test_a_second_run_that_fails_does_not_look_finished(made, capsys, stage):
    folder = made / "again" / stage
    output = ["--output", str(folder)]
    assert STAGES[stage](made, *output) == 0 and is_finished(folder)
    assert STAGES[stage](made, *output, "--overwrite", "--learning-rate", "1e30", "--warmup", "0") == 1
    assert "Training stopped" in capsys.readouterr().err
    assert not (folder / FINISHED).exists()
    assert (folder / EXAMPLES).is_dir() == (stage == "model")  # the next run reads them
    assert STAGES[stage](made, *output, "--resume") == 0
    assert not (folder / CHECKPOINTS).exists() and not (folder / EXAMPLES).exists()
    assert "Finished before" not in capsys.readouterr().out
