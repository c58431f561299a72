"""2 processes × 4 rows are 1 process × 8 rows, for every loss of both stages; see `two_processes.py` for the runs."""

import json
import shutil

import pytest
import torch
from forks import run_alone
from launching import launch
from one_of_two import one_and_two
from two_processes import one_then_two

from macrec_hf import MacRecConfig, MacRecForConditionalGeneration, MacRecQuantizer, MacRecQuantizerConfig
from macrec_hf.model.losses import ProcessGroup


@pytest.fixture(scope="module", params=["forked", pytest.param("launched", marks=pytest.mark.slow)])
def runs(request, tmp_path_factory):
    """What one process found and what two found, these forked, or by `accelerate launch`."""
    folder = tmp_path_factory.mktemp("runs")
    done = [run_alone(lambda: one_then_two(folder))]
    if request.param == "launched":
        shutil.rmtree(folder / "2")
        done.append(launch("tests/two_processes.py", str(folder)))
    found = []
    for processes in (1, 2):
        path = folder / str(processes) / "found.pt"
        assert path.is_file(), "".join(part.stderr for part in done)[-3000:]
        saved = torch.load(path)
        assert saved["processes"] == processes
        found.append(saved["found"])
    return found


def compare(runs, kind, tolerance):
    alone, together = runs
    names = [name for name in alone if name.split("/")[1] == kind]
    assert names and alone.keys() == together.keys()
    for name in names:
        torch.testing.assert_close(together[name], alone[name], atol=tolerance, rtol=tolerance, msg=name)
    return [alone[name] for name in names]


def test_gradients_of_the_first_step_are_those_of_one_process(runs):
    gradients = compare(runs, "gradient", 1e-9)
    assert all(gradient.dtype == torch.float64 for gradient in gradients)
    assert sum(bool(gradient.abs().max() > 1e-4) for gradient in gradients) > 0.8 * len(gradients)


def test_twenty_steps_end_at_the_weights_of_one_process(runs):
    compare(runs, "weight", 1e-6)
    compare(runs, "loss", 1e-5)  # Trainer adds the logged losses up in float32


def test_the_parts_of_the_loss_in_the_log_are_those_of_one_process(runs):
    names = [name.split("/")[2] for name in runs[0] if name.split("/")[1] == "part"]
    assert {"reconstruction_loss", "contrastive_loss_1", "alignment_loss", "without_partner_image"} <= set(names)
    compare(runs, "part", 2e-6)  # the log rounds to six places


def test_evaluation_counts_every_item_and_every_user_once(runs):
    alone, together = runs
    metrics = [name for name in alone if "hr@" in name or "ndcg@" in name or "eval_" in name]
    assert len(metrics) > 30
    for name in metrics:
        assert float(alone[name]) == pytest.approx(float(together[name]), abs=1e-6), name


def test_counts_are_those_of_one_process_byte_for_byte_and_a_blend_but_for_rounding(runs):
    counts, more = compare(runs, "counts", 0)
    assert len(counts) < len(more)  # counted again with 50 purchases more
    for found in runs:
        fitted, refreshed = (json.loads(bytes(found[f"{name}/blend"].tolist())) for name in ("fitted", "refreshed"))
        assert fitted["weights"] == refreshed["weights"] and fitted["about"]["num_users"] == 60
    # Of the users of a batch, processors round the products of so many rows at once in different ways.
    alone, together = (json.loads(bytes(found["fitted/blend"].tolist())) for found in runs)
    assert alone["serves"] == together["serves"]
    assert together["weights"] == pytest.approx(alone["weights"], rel=1e-4, abs=1e-5)
    assert together["about"]["ndcg@10"] == pytest.approx(alone["about"]["ndcg@10"], abs=1e-6)


def test_one_of_two_processes_may_train_alone_unless_it_gathers(tmp_path):
    done = run_alone(lambda: one_and_two(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    for gathers in (False, True):
        alone = {name: torch.load(tmp_path / str(gathers) / f"{name}.pt") for name in ("one", "two")}
        assert alone["one"].keys() == alone["two"].keys() == {"quantizer", "recommender"}
        for name, loss in alone["one"].items():
            # Half of the batch in each process: shares of the whole where it is gathered, else losses of the half.
            assert (float(alone["two"][name]) == pytest.approx(float(loss), abs=1e-5)) == gathers, name


def test_the_switch_is_off_by_default_and_is_not_saved(tmp_path):
    model = MacRecForConditionalGeneration(MacRecConfig(d_model=8, d_kv=4, d_ff=8, num_heads=2, num_layers=1))
    quantizer = MacRecQuantizer(MacRecQuantizerConfig(modalities={"text": 3, "image": 2}, hidden_sizes=(4,)))
    for part in (model, quantizer):
        assert part.gather_across_processes is False
        part.gather_across_processes = True
        part.save_pretrained(tmp_path)
        assert type(part).from_pretrained(tmp_path).gather_across_processes is False
        assert "gather" not in (tmp_path / "config.json").read_text()


def test_alone_nothing_is_exchanged():
    layer = torch.nn.Linear(2, 2)
    group = ProcessGroup.around(layer, 5, torch.device("cpu"))
    rows = torch.randn(5, 3)
    assert group.alone and group.gather(rows) is rows and group.share(rows, 2, 5) is rows
    assert group.mine == slice(0, 5) and group.parts_of(7).counts == [7]


def test_parts_shares_and_the_seed():
    group = ProcessGroup([3, 5, 2], rank=1, seed=7)
    assert group.mine == slice(3, 8)
    assert group.parts_of(2).counts == [0, 1, 1] and group.parts_of(9).counts == [3, 3, 3]
    # the mean over processes of share × mean is the mean over all rows
    values, counts = torch.arange(10.0), [3, 5, 2]
    parts = enumerate(values.split(counts))
    shares = [ProcessGroup(counts, rank).share(part.mean(), len(part), 10) for rank, part in parts]
    assert float(sum(shares)) / 3 == pytest.approx(float(values.mean()))
    draws = [torch.rand(4, generator=ProcessGroup([1, 1], rank, 7).generator(torch.device("cpu"))) for rank in (0, 1)]
    assert torch.equal(*draws)


def test_the_seed_is_random_in_training_and_leaves_evaluation_alone():
    layer, device = torch.nn.Linear(2, 2), torch.device("cpu")
    torch.manual_seed(0)
    first, second = (ProcessGroup.around(layer, 1, device).seed for _ in range(2))
    assert first != second
    before = torch.get_rng_state()
    with torch.no_grad():
        assert ProcessGroup.around(layer, 1, device).seed == 0
    assert torch.equal(before, torch.get_rng_state())
