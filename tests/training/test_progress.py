"""Patience cuts only the last fifth; a run says what it does."""

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from macrec_hf.training.progress import Announcement, LateStopping, in_words
from macrec_hf.training.trainer_state import had_ended


def evaluated(callback, step, value, state, arguments):
    """The control after an evaluation at that step."""
    state.global_step = step
    control = TrainerControl()
    callback.on_evaluate(arguments, state, control, {"eval_loss": value})
    state.best_metric = value if state.best_metric is None else min(value, state.best_metric)
    return control.should_training_stop


@pytest.fixture
def arguments(tmp_path):
    return TrainingArguments(
        str(tmp_path), metric_for_best_model="loss", greater_is_better=False, eval_strategy="steps",
        eval_steps=10, save_steps=10, load_best_model_at_end=True,
    )  # fmt: skip


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_a_run_without_progress_ends_at_four_fifths_and_no_earlier(arguments, patience):
    callback, state = LateStopping(patience), TrainerState(max_steps=100)
    for step in range(10, 80, 10):
        assert not evaluated(callback, step, float(step), state, arguments)
        assert not had_ended([callback], state, 100)  # as a resumed run looks at it
    assert evaluated(callback, 80, 80.0, state, arguments)


def test_a_run_that_another_callback_ends_ends(arguments):
    state, control = TrainerState(max_steps=100, global_step=10), TrainerControl(should_training_stop=True)
    LateStopping(2).on_evaluate(arguments, state, control, {"eval_loss": 1.0})
    assert control.should_training_stop


def test_progress_in_the_last_fifth_starts_the_count_anew(arguments):
    callback, state = LateStopping(2), TrainerState(max_steps=100)
    stops = [evaluated(callback, step, value, state, arguments) for step, value in ((70, 5.0), (80, 4.0), (90, 6.0))]
    assert stops == [False, False, False] and evaluated(callback, 95, 6.0, state, arguments)


def said(capsys, arguments, seconds_a_step, monkeypatch, steps=1000):
    clock = iter(seconds_a_step * step for step in range(10_000))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    callback, state = Announcement("Sizes.", 1234, 10, "--epochs lowered"), TrainerState(max_steps=steps)
    state.num_train_epochs, state.is_world_process_zero, state.eval_steps = 5, True, 10
    callback.on_train_begin(arguments, state, TrainerControl(), model=None)
    for state.global_step in range(1, 30):
        callback.on_step_end(arguments, state, TrainerControl())
    return capsys.readouterr().out.splitlines()


def test_the_header_and_the_time_left(arguments, capsys, monkeypatch):
    lines = said(capsys, arguments, 20.0, monkeypatch)
    assert lines[0] == "Sizes."
    assert lines[1].startswith(
        "1,234 examples an epoch, 0 parameters, on cpu: 1,000 steps (5 epochs), ends at step 1,000, or"
    )
    assert "from step 800 on after 10 evaluations without progress" in lines[1]
    # the clock is read twice: after the first step and after twenty more, which then took 20 s / 20
    assert lines[2] == "About 16 min left at 1 s a step, evaluations apart." and len(lines) == 3


@pytest.mark.parametrize(("patience", "every"), [(10, 20), (10, 10), (10, 7), (1, 30), (3, 25), (4, 24), (2, 100)])
def test_the_header_names_the_step_at_which_patience_may_end_the_run(arguments, capsys, patience, every):
    """Against a run of 100 steps whose first evaluation is the best."""
    callback, state = LateStopping(patience), TrainerState(max_steps=100)
    ends = [step for step in range(every, 101, every) if evaluated(callback, step, float(step), state, arguments)]
    state.is_world_process_zero, state.eval_steps = True, every
    Announcement("Sizes.", 1, patience, "").on_train_begin(arguments, state, TrainerControl())
    end = capsys.readouterr().out.splitlines()[1].partition("ends at step 100")[2]
    step = next((step for step in ends if step < 100), None)
    wanted = "" if step is None else f", or from step {step} on after {patience} evaluations without progress"
    assert end == f"{wanted}."


def test_a_run_of_hours_is_told_what_is_faster(arguments, capsys, monkeypatch):
    lines = said(capsys, arguments, 200.0, monkeypatch)
    assert lines[2].startswith("About 2.7 h left at 10 s a step") and lines[3] == "Faster: --epochs lowered."


def test_nothing_is_said_where_no_progress_is_wanted(arguments, capsys, monkeypatch):
    arguments.disable_tqdm = True
    assert said(capsys, arguments, 200.0, monkeypatch) == []


@pytest.mark.parametrize("seconds, words", [(40.2, "40 s"), (89, "89 s"), (600, "10 min"), (9000, "2.5 h")])
def test_spans_of_time(seconds, words):
    assert in_words(seconds) == words
