"""Several seeds of one training: a folder each, and mean ± standard deviation of their figures."""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

from .run_folder import differences, is_finished

logger = logging.getLogger(__name__)

PARTS = ("seen", "unseen", "new_customers")  # `evaluation.by_time.PARTS`: this module is imported to print a help


def seed_folder(output: Path, seed: int) -> Path:
    return output / f"seed-{seed}"


def seed_folders(model: str | Path) -> dict[int, Path]:
    """`{seed: folder}` of what `macrec train --seeds` wrote, by rising seed; empty for a single model.

    With a notice where one was trained otherwise than the first, as one that was left there by an earlier training.

    Raises:
        ValueError: one of the seeds is not finished.
    """
    directory = Path(model)
    if not directory.is_dir() or (directory / "config.json").is_file():
        return {}
    written = {path: re.fullmatch(r"seed-(0|[1-9]\d*)", path.name) for path in directory.iterdir()}
    folders = dict(sorted((int(match[1]), path) for path, match in written.items() if match))
    if unfinished := [path.name for path in folders.values() if not is_finished(path)]:
        raise ValueError(
            f"{directory}: expected finished trainings, found unfinished ones: {', '.join(unfinished)}. Run "
            "`macrec train` again with the same --seeds and --resume, or remove the folder."
        )
    first, *others = folders.values() or [directory]
    for folder in others:
        if told := differences(first, folder):
            logger.warning(
                f"{first.name} and {folder.name} in {directory} were trained otherwise ({told}): means and "
                "deviations are of both. Remove what an earlier training left there."
            )
    return folders


def mean_report(reports: Mapping[int, Mapping]) -> dict:
    """The reports of `macrec evaluate` for several seeds as one.

    Args:
        reports: `{seed: report}`, all of the same lists and metrics.

    Returns:
        A report whose figures are means over the seeds, with "sd", the sample standard deviations (n - 1) in the same
        form, `None` for a single seed, and "seeds", the reports themselves. It has no "intervals": those are over
        users, and stay with the seeds' own reports, as "differences", "verdict" and "leakage" do.

    Raises:
        ValueError: some have other rows than the others, as where one has a blend and another has none.
    """
    rows = {seed: report.get("model_rows", []) for seed, report in reports.items()}
    most = max(rows.values(), key=len)
    if fewer := {seed: found for seed, found in rows.items() if found != most}:
        seed, found = next(iter(fewer.items()))
        raise ValueError(
            f"seed-{seed}: expected the rows {', '.join(most)}, as the other seeds have them, got {', '.join(found)}. "
            "Where the blend is missing, `macrec blend` fits one."
        )
    report = _mean_column(list(reports.values()))
    report["hidden"] = _mean_column([of_seed["hidden"] for of_seed in reports.values()])
    return report | {"seeds": [{"seed": seed, **of_seed} for seed, of_seed in reports.items()]}


def _mean_column(reports: Sequence[Mapping]) -> dict:
    """The means of one column of the table, own history shown or hidden, and "sd"."""
    first = reports[0]
    shares = [name for name in ("coverage", "unseen_places") if name in first]
    gathered = {
        name: {metric: [report[name][metric] for report in reports] for metric in first[name]}
        for name in [*first.get("coverage", first.get("intervals", ())), *shares]
    }
    means, deviations = ({name: {metric: function(values) for metric, values in metrics.items()}
                          for name, metrics in gathered.items()} for function in (mean, _deviation))  # fmt: skip
    kept = {
        key: value for key, value in first.items() if key not in ("intervals", "differences", "verdict", "leakage")
    }
    parts = {part: _mean_column([report[part] for report in reports]) for part in PARTS if part in first}
    return {key: means.get(key, value) for key, value in kept.items()} | parts | {"sd": deviations}


def _deviation(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None
