import re

import numpy as np
import pytest

from macrec_hf import EmbeddingStore, SemanticIdTable, codebook_report, quantizer_sizes
from macrec_hf.doctor.advice import CHECKS, LEAST_CODES, findings, shared_words

HEALTHY = 4000  # items


def healthy_codes(seed=0):
    return np.random.default_rng(seed).integers(32, size=(HEALTHY, 4))


def related(codes, seed=1):
    """Codes of another modality that share something with these."""
    random = np.random.default_rng(seed)
    return np.where(random.random((len(codes), 1)) < 0.4, codes, random.integers(32, size=codes.shape))


def warnings(report):
    return {finding["title"] for finding in findings(report) if finding["status"] == "warning"}


def table_of(text, image=None, size=32):
    codes = {"text": text} if image is None else {"text": text, "image": image}
    return SemanticIdTable(range(len(text)), codes, size)


def store_for(text, image):
    """Embeddings that follow the first codes."""
    random = np.random.default_rng(2)
    centres = random.standard_normal((2, 32, 8))
    noise = 0.5 * random.standard_normal((2, len(text), 8))
    arrays = {"text": centres[0][text[:, 0]] + noise[0], "image": centres[1][image[:, 0]] + noise[1]}
    return EmbeddingStore({name: array.astype("f4") for name, array in arrays.items()})


def test_nothing_is_said_against_healthy_ids():
    text = np.unique(healthy_codes(), axis=0)
    image, first = np.unique(related(text), axis=0, return_index=True)
    text = text[first]
    before = {name: {"collision_rate_before": 0.03} for name in ("text", "image")}
    report = codebook_report(table_of(text, image), store_for(text, image), before=before)
    found = findings(report)
    assert len(found) == len(CHECKS) and {finding["status"] for finding in found} == {"ok"}


def test_what_the_report_cannot_tell_is_unknown_and_says_what_it_needs():
    found = {finding["title"]: finding for finding in findings(codebook_report(table_of(healthy_codes())))}
    drowned = found["One modality drowned: codes say nothing"]
    assert drowned["status"] == "unknown" and drowned["needs"] == "--embeddings" and drowned["worst"] is None
    assert found["Modalities agree by chance only"]["needs"] == "two modalities with 100 items"
    assert found["Many collisions before resolution"]["status"] == "unknown"


def collapse(text, image):
    text[:, 1] = np.where(np.arange(len(text)) % 20 < 19, 0, text[:, 1] % 3)
    return text, image


def swallowed(text, image):
    text[: len(text) // 3, 0] = 7
    return text, image


def dead(text, image):
    return text % 20, image


def absent(text, image):
    image[: int(0.6 * len(image))] = -1
    return text, image


def few_codes(text, image):
    image[:, 0] %= 5
    return text, image


def equal(text, image):
    return text, text.copy()


def shuffled(text, image):
    return text, np.random.default_rng(5).permutation(image)


def shared(text, image):
    text[1] = text[0]
    return text, image


@pytest.mark.parametrize(
    ("spoil", "title"),
    [
        (collapse, "Collapsed codebook"),
        (swallowed, "One code swallows the catalogue"),
        (dead, "Dead codes"),
        (absent, "Modality missing from much of the catalogue"),
        (few_codes, "One modality drowned: few codes"),
        (equal, "Modalities say the same"),
        (shuffled, "Modalities agree by chance only"),
        (shared, "Items that share an ID"),
    ],
)
def test_each_fault_is_named(spoil, title):
    text = healthy_codes()
    found = findings(codebook_report(table_of(*spoil(text, related(text)))))
    named = next(finding for finding in found if finding["title"] == title)
    assert named["status"] == "warning" and named["where"] and named["advice"] and named["reason"]
    assert found[0]["status"] == "warning", "problems come first"


def test_codebooks_too_large_or_too_small_for_the_catalogue():
    random = np.random.default_rng(0)
    assert "Codebook too large: few items a code" in warnings(
        codebook_report(table_of(random.integers(256, size=(300, 4)), size=256))
    )
    small = warnings(codebook_report(table_of(random.integers(8, size=(300, 3)), size=8)))
    assert "Codebook too small" in small and "Codebook too large: few items a code" not in small


def test_limits_hold_at_the_limit_itself():
    check = next(check for check in CHECKS if check.title == "Many collisions before resolution")
    assert not check.is_beyond(0.10) and check.is_beyond(0.1001)
    low = next(check for check in CHECKS if check.title == "Codebook too small")
    assert not low.is_beyond(50) and low.is_beyond(49.9)


def test_collisions_before_resolution_are_judged():
    report = codebook_report(table_of(healthy_codes()), before={"text": {"collision_rate_before": 0.3}})
    (finding,) = [found for found in findings(report) if found["title"] == "Many collisions before resolution"]
    assert (finding["status"], finding["shown"], finding["shown_limit"]) == ("warning", "30.0%", "at most 10.0%")
    assert finding["where"] == ["text: 30.0%"]


def test_a_drowned_modality_is_found_through_its_embeddings():
    text = healthy_codes()
    image = related(text)
    random = np.random.default_rng(9).integers(32, size=image.shape)
    store = store_for(text, image)
    nothing = warnings(codebook_report(table_of(text, random), store))
    assert {"One modality drowned: codes say nothing", "One modality drowned: the other writes its codes"} <= nothing
    assert not any("drowned" in title for title in warnings(codebook_report(table_of(text, image), store)))


@pytest.mark.parametrize(
    ("weights", "is_free"),
    [({}, False), ({"contrastive_weights": None}, False), ({"contrastive_weights": [0.0, 0.1, 0.1, 0.1]}, False),
     ({"contrastive_weights": [0.0, 0.0, 0.1, 0.1]}, True)],
)  # fmt: skip
def test_nobody_is_told_to_free_levels_that_are_free(weights, is_free):
    text = healthy_codes()
    random = np.random.default_rng(9).integers(32, size=text.shape)
    report = codebook_report(table_of(text, random), store_for(text, related(text))) | weights
    found = {finding["title"]: finding["advice"] for finding in findings(report)}
    advice = found["One modality drowned: the other writes its codes"]
    assert advice and ("Keep the first two levels" in advice) != is_free and ("(--epochs)" in advice) == is_free


@pytest.mark.parametrize("num_items", [6, 30, 63, 100, 300, 5000])
@pytest.mark.parametrize(("size", "num_levels"), [(4, 1), (8, 2), (16, 3), (64, 2), (256, 4)])
def test_advice_on_sizes_is_one_and_within_the_catalogue(num_items, size, num_levels):
    random = np.random.default_rng(0)
    for used in (size, max(1, size // 3)):  # all codes, or two thirds of them dead
        table = table_of(random.integers(used, size=(num_items, num_levels)), size=size)
        report = codebook_report(table, before={"text": {"collision_rate_before": 0.3}})
        advice = [finding["advice"] for finding in findings(report) if finding["status"] == "warning"]
        codes = {int(number) for text in advice for number in re.findall(r"--codebook-size (\d+)", text)}
        levels = {int(number) for text in advice for number in re.findall(r"--num-levels (\d+)", text)}
        assert len(codes) <= 1 and all(number <= min(size, max(num_items, 1)) for number in codes)
        assert all(num_levels < number <= num_levels + 20 for number in levels)
        assert not any(word in text for text in advice for word in ("double", "halve", "Halve"))
        room = {min(size, *codes) ** number >= 50 * num_items for number in levels} if codes else set()
        assert room <= {True}, "what is advised is enough"


def test_nothing_is_said_of_sizes_where_no_item_has_an_id():
    for num_items in (0, 5):
        missing = np.full((num_items, 3), -1)
        titles = warnings(codebook_report(table_of(missing, missing, size=16)))
        assert not [title for title in titles if "Codebook" in title]


@pytest.mark.parametrize("num_photos", [2, 3, 6, 20, 40, 150, 199, 200])
def test_a_codebook_of_the_usual_size_is_not_called_too_large_where_photos_are_missing(num_photos):
    """All modalities share the size, so fewer codes would take room from the texts."""
    size = quantizer_sizes(200, {"text": 64, "image": 32}).codebook_size
    for seed in range(10):
        text, image = np.random.default_rng(seed).integers(size, size=(2, 200, 3))
        image[num_photos:] = -1
        named = warnings(codebook_report(table_of(text, image, size=size)))
        assert not [title for title in named if "too large" in title or "too small" in title]
    assert ("Modality missing from much of the catalogue" in named) == (num_photos < 100)


def test_the_smallest_codebook_is_not_called_too_large():
    codes = np.random.default_rng(0).integers(3, size=(30, 4))
    found = {finding["title"]: finding for finding in findings(codebook_report(table_of(codes, size=LEAST_CODES)))}
    for title in ("Dead codes", "Codebook too large: few items a code"):
        assert found[title]["status"] == "unknown" and found[title]["needs"].startswith("more than 8 codes a level")


def test_agreement_of_few_items_is_not_judged():
    text = healthy_codes()[:60]
    found = {finding["title"]: finding for finding in findings(codebook_report(table_of(text, related(text))))}
    assert found["Modalities agree by chance only"]["status"] == "unknown"


def test_shared_information_below_chance_is_none():
    assert [shared_words(value) for value in (-0.2, -0.001, 0.0, 0.004, 0.005, 0.32)] == [
        "none", "none", "none", "none", "0.01", "0.32",
    ]  # fmt: skip


def test_grave_problems_stand_before_others():
    text, image = collapse(*shared(healthy_codes(), related(healthy_codes())))
    problems = [one for one in findings(codebook_report(table_of(text, image))) if one["status"] == "warning"]
    graves = [problem["is_grave"] for problem in problems]
    assert len(set(graves)) == 2 and graves == sorted(graves, reverse=True)


def test_each_problem_is_told_in_a_shops_words():
    text = healthy_codes()
    for finding in findings(codebook_report(table_of(*shared(text, related(text))))):
        assert bool(finding["told"]) == (finding["status"] == "warning") == bool(finding["advice"])
        assert "{" not in finding["told"]
    (first,) = [one for one in findings(codebook_report(table_of(*shared(text, related(text))))) if one["told"]]
    assert re.match(r"0\.\d\d% of the items have the same \w+ ID as another one, so that", first["told"])


def test_shares_of_a_code_are_not_judged_in_a_tiny_codebook():
    report = codebook_report(table_of(np.random.default_rng(0).integers(4, size=(300, 3)), size=4))
    assert "One code swallows the catalogue" not in warnings(report)
