"""What a semantic ID is, shown on one product: its IDs, and the products whose IDs begin alike."""

from collections import Counter
from collections.abc import Mapping, Sequence

from ..model.semantic_ids import SemanticIdTable

ALIKE = 5  # products shown beside it


def one_product(table: SemanticIdTable, products: Mapping[str, Mapping], item_ids: Sequence[str]) -> dict:
    """The one of some products that shares its first code with the most others in every modality.

    Args:
        table: of the catalogue.
        products: `{item_id: {"item_id", "title", "image"}}`.
        item_ids: those to choose from.

    Returns:
        `{"product": …, "ids": [{"modality", "tokens": "<a_3><b_77>", "first": "<a_3>", "alike": [product, …]}, …]}`;
        `alike` has products that share more codes first.
    """
    counts = {name: Counter(table.codes[name][:, 0].tolist()) for name in table.modalities}

    def others(item: str) -> int:
        row = table.row_of[item]
        codes = {name: int(table.codes[name][row, 0]) for name in table.modalities}
        return min(0 if code < 0 else counts[name][code] for name, code in codes.items())

    chosen = max(item_ids, key=others)
    return {"product": products[chosen], "ids": [_id_of(table, products, chosen, name) for name in table.modalities]}


def _id_of(table: SemanticIdTable, products: Mapping[str, Mapping], item: str, modality: str) -> dict:
    codes, row = table.codes[modality], table.row_of[item]
    same = (codes == codes[row]).long().cumprod(dim=1).sum(dim=1)  # codes that they begin with in common
    same[row] = 0
    alike = [other for other in same.argsort(descending=True, stable=True).tolist() if same[other] > 0][:ALIKE]
    tokens = table.tokens(item, modality)
    return {
        "modality": modality,
        "tokens": "".join(tokens),
        "first": tokens[0] if tokens else "",
        "alike": [products[table.item_ids[other]] for other in alike],
    }
