"""What a check-up says first: one sentence for whoever has the shop, and one about what recommendations rest on."""

from collections.abc import Mapping, Sequence

from .blend_figures import source_words


def is_healthy(found: Sequence[Mapping]) -> bool:
    """Whether no check found a problem."""
    return all(finding["status"] != "warning" for finding in found)


def mend_first(found: Sequence[Mapping]) -> str:
    """What to do before a training; empty where it need not wait."""
    return next((finding["advice"] for finding in found if finding["status"] == "warning" and finding["is_grave"]), "")


def verdict(report: Mapping, found: Sequence[Mapping]) -> str:
    """Healthy, or the problem that costs most and how many more there are.

    Args:
        report: of [`codebook_report`].
        found: its [`findings`].
    """
    if is_healthy(found):
        return f"Healthy: {_what_holds(report, found)}; nothing has to be done."
    problems = [finding for finding in found if finding["status"] == "warning"]
    state = "Worth mending before training" if problems[0]["is_grave"] else "Usable, but not as good as it could be"
    more = len(problems) - 1
    rest = f" (and {'one more thing' if more == 1 else f'{more} more things'} to look at)" if more else ""
    return f"{state}: {problems[0]['told']}{rest}."


def _what_holds(report: Mapping, found: Sequence[Mapping]) -> str:
    """What is good, as far as the report knows."""
    fine = {finding["title"] for finding in found if finding["status"] == "ok"}
    items = f"the {report['num_items']:,} items"
    own = f"each of {items} has IDs of its own" if "Items that share an ID" in fine else f"the codes suit {items}"
    alike = "One modality drowned: codes say nothing" in fine
    return f"{own}, and items whose IDs begin alike are alike" if alike else own


def blend_verdict(blend: Mapping) -> str:
    """What recommendations are made from, and what that is worth beside the best single source.

    Args:
        blend: of [`blend_figures`].
    """
    serves, best = source_words(blend["serves"]), source_words(blend["best"])
    on = f"NDCG@10 on {blend['num_users']:,} validation customers"
    if blend["serves"] != "blend":
        why = "no blend of sources found more" if blend["weights"] else "there are too few customers to weigh sources"
        found = blend["ndcg@10"][blend["serves"]]
        return f"Recommendations are made by {serves} alone, because {why} ({on}: {found:.3f})."
    ours, theirs = blend["ndcg@10"]["blend"], blend["ndcg@10"][blend["best"]]
    return (
        f"Recommendations are made by {serves}, which scores {ours:.3f}; the best of these sources alone, {best}, "
        f"scores {theirs:.3f} ({on})."
    )
