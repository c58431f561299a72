"""The shop's name and the card, as the page takes them from a model directory."""

import pytest

from macrec_hf.app.model_page import card_text, shop_name
from macrec_hf.hub.model_card import NAME


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("our-shop", "Our shop"),
        ("our_shop/model", "Our shop"),
        ("Café & Co/model", "Café & Co"),
        ("demo/Model", "Demo"),
        ("H&M by time", "H&M by time"),
        ("--", "--"),
    ],
)
def test_a_shop_is_called_as_its_folder(tmp_path, folder, said):
    (tmp_path / folder).mkdir(parents=True)
    assert shop_name(tmp_path / folder) == said
    (tmp_path / folder / "README.md").write_text(f"---\na: b\n---\n\n# {NAME}\n\n# More\n")
    assert shop_name(tmp_path / folder) == said


def test_a_heading_that_people_wrote_goes_before_the_folder(tmp_path):
    (tmp_path / "README.md").write_text("---\n# a comment\nlicense: mit\n---\n\n# Maria's *mugs* \n\ntext\n")
    assert shop_name(tmp_path) == "Maria's *mugs*"


def test_a_repository_of_the_hub_is_called_by_its_own_name():
    assert shop_name("user/our-shop") == "Our shop" and card_text("user/our-shop") is None


def test_a_card_is_shown_without_metadata_and_pictures(tmp_path):
    assert card_text(tmp_path) is None
    text = "---\nlicense: mit\n---\n# A\n\nb\n\n---\n\n![x](y.png)\n\nc ![in](line.png)\n"
    (tmp_path / "README.md").write_text(text)
    assert card_text(tmp_path) == "# A\n\nb\n\n---\n\n\n\nc ![in](line.png)"
    (tmp_path / "README.md").write_text("no metadata")
    assert card_text(tmp_path) == "no metadata"
