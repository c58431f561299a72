"""What one visitor of the page of `macrec app` does, without the page: a history, lists for it, new items."""

import math
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..model.ensemble import ENSEMBLE, NUM_BEAMS
from ..model.ranked_lists import Recommendation
from ..model.recommender import MacRecRecommender, Recommendations
from .new_item import Landing, place_item
from .shop import Shop, ShownItem

TOP_K = 10  # items of a list; paper, largest K
PAGE_SIZE = 60  # items of the catalogue that are shown at first, and further ones on request
MAX_QUERY = 200  # characters of a search; the rest is not read
MAX_TEXT = 2000  # characters of a new item's title, and of its description
MAX_NEW_ITEMS = 20  # of one visitor: each has a catalogue of its own from the first on


@dataclass(frozen=True)
class Options:
    """How a list is made; see `MacRecRecommender.recommend`."""

    modality: str = ENSEMBLE
    num_beams: int = NUM_BEAMS
    exclude_history: bool = False
    only_in_stock: bool = False


@dataclass(frozen=True)
class RankedItem:
    """One line of a list.

    Attributes:
        rank: from 1; None: the item is not among the first, but its score is known.
        probability: as `Recommendation` has it; None where the score only ranks.
        bar: the probability, relative to that of the first item, in (0, 1]; 0 where there is none.
        semantic_ids: `{modality: tokens}`, no tokens where the item has no ID.
        reasons: why it is listed, in words, the strongest first.
    """

    rank: int | None
    item: ShownItem
    score: float
    probability: float | None
    bar: float
    semantic_ids: Mapping[str, list[str]]
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class RankedPage:
    """A list to be shown.

    Attributes:
        rows: best first.
        outside: the visitor's own new items that are not in `rows`, with their scores.
        note: what has to be said about it, else None.
    """

    rows: list[RankedItem] = field(default_factory=list)
    outside: list[RankedItem] = field(default_factory=list)
    note: str | None = None


class Visit:
    """What one visitor has picked and added. Nothing of it is written anywhere.

    Attributes:
        history: ids of the items that were picked, oldest first.
        items: the shop's, and this visitor's new ones.
        query: words that the shown part of the catalogue matches.
        recommender: the shop's, or one over a catalogue with the new items, which has the same model.
    """

    def __init__(self, shop: Shop):
        self.shop, self.recommender = shop, shop.recommender
        self.items = ChainMap({}, shop.items)
        self.history: list[str] = []
        self.query, self.num_shown = "", PAGE_SIZE

    @property
    def new_items(self) -> list[str]:
        """Ids of the items that this visitor has added, oldest first."""
        return list(self.items.maps[0])

    def search(self, query: str) -> None:
        """Narrows the catalogue down to the items whose title or id holds all words."""
        self.query, self.num_shown = query[:MAX_QUERY], PAGE_SIZE

    def show_more(self) -> None:
        self.num_shown += PAGE_SIZE

    def catalogue(self) -> tuple[list[ShownItem], int]:
        """The items to show, the visitor's own before the shop's, and how many were found in all."""
        words = self.query.casefold().split()
        own = [
            item
            for item in reversed(self.new_items)
            if all(word in self.items[item].title.casefold() for word in words)
        ]
        found = own + self.shop.search(self.query)
        return [self.items[item] for item in found[: self.num_shown]], len(found)

    def toggle(self, item_id: str) -> None:
        """Puts an item at the end of the history, or takes it out where it is in it."""
        if item_id in self.history:
            self.history.remove(item_id)
        elif item_id in self.items:
            self.history.append(item_id)

    def take(self, item_ids: Sequence[str]) -> list[str]:
        """Replaces the history, each item once; returns the ids that are not in the catalogue, which are left out."""
        self.history = [item for item in dict.fromkeys(item_ids) if item in self.items]
        return [item for item in dict.fromkeys(item_ids) if item not in self.items]

    def clear(self) -> None:
        self.history.clear()

    def recommend(self, options: Options) -> RankedPage:
        """The list for the history as it stands.

        Where the history holds nothing that the model can read, it is what is popular; where nobody knows that, the
        list is empty and the note says so.
        """
        readable = self._readable(options.modality)
        if not readable and self.recommender.item_counts is None:
            return RankedPage(
                note="Pick an item to begin: this model keeps no popular items for people without a past."
            )
        allowed = self._in_stock() if options.only_in_stock else None
        if allowed == []:
            return RankedPage(note="Nothing is in stock.")
        (found,) = self._ranked(options, allowed)
        if not found:
            return RankedPage(note="Nothing is left to recommend: every item is excluded.")
        best, read = found[0].score, self._names(options.modality) if readable else ()
        rows = [self._row(rank, entry, best, read) for rank, entry in enumerate(found, start=1)]
        shown = {entry.item_id for entry in found} | set(self.history if options.exclude_history else ())
        outside = [
            self._row(None, entry, best, read)
            for item in self.new_items
            if item not in shown and readable
            for entry in self._ranked(options, [item])[0]
        ]
        return RankedPage(rows, outside, None if readable else self._popularity_note(options.modality))

    def add_item(
        self, title: str, photo: str | Path | None = None, text: str = "", shown_photo: str | None = None
    ) -> Landing:
        """Gives a new item semantic IDs; from now on it can be picked and recommended in this visit.

        Args:
            photo: file for the image encoder.
            shown_photo: what is shown instead of it, for a file that will not last.

        Returns:
            The `Landing`.

        Raises:
            ValueError: no title or one of more than `MAX_TEXT` characters, nothing that can be encoded, too many
                items, or a shop without encoders.
        """
        if not self.shop.can_add:
            raise ValueError("Items cannot be added: expected a quantizer and encoders, got none. Give --encoders.")
        if len(self.new_items) >= MAX_NEW_ITEMS:
            raise ValueError(
                f"Expected at most {MAX_NEW_ITEMS} new items in one visit. Reload the page to begin anew."
            )
        title = title.strip()
        for name, given in (("title", title), ("description", text)):
            if len(given) > MAX_TEXT:
                raise ValueError(
                    f"The {name} has {len(given):,} characters: expected at most {MAX_TEXT:,}. Shorten it."
                )
        if self.recommender is self.shop.recommender:
            self.recommender = self._own_recommender()
        known = self.recommender.table.row_of
        item_id = next(name for number in range(1, 10**6) if (name := f"new-{number}") not in known)
        landing = place_item(self.recommender, self.shop.encoders, item_id, title, text, photo)
        shown = shown_photo or (None if photo is None else str(photo))
        self.items.maps[0][item_id] = ShownItem(item_id, title, shown, in_stock=True, is_new=True)
        return landing

    def semantic_ids(self, item_id: str) -> dict[str, list[str]]:
        table = self.recommender.table
        return {name: table.tokens(item_id, name) for name in table.modalities}

    def _own_recommender(self) -> MacRecRecommender:
        """One with the shop's model and catalogue, whose catalogue may grow."""
        shop = self.shop.recommender
        return MacRecRecommender(
            model=shop.model,
            tokenizer=shop.tokenizer,
            table=shop.table,
            quantizer=shop.quantizer,
            item_counts=shop.item_counts,
            item_titles=shop.item_titles,
            purchase_counts=shop.purchase_counts,
            blend=shop.blend,
            max_history=shop.task_encoder.max_history,
            use_cpu_kernels=shop.use_cpu_kernels,
            use_gpu_kernels=shop.use_gpu_kernels,
        )

    def _ranked(self, options: Options, allowed: list[str] | None) -> Recommendations:
        return self.recommender.recommend(
            [self.history],
            top_k=TOP_K,
            num_beams=options.num_beams,
            modality=options.modality,
            allowed_items=allowed,
            exclude_history=options.exclude_history,
        )

    def _row(self, rank: int | None, entry: Recommendation, best: float, read: Sequence[str]) -> RankedItem:
        item, score, probability = entry.item_id, entry.score, entry.probability
        bar = 0.0 if probability is None else min(1.0, math.exp(score - best))
        reasons = entry.reasons or self._alike(item, read)
        return RankedItem(rank, self.items[item], score, probability, bar, self.semantic_ids(item), reasons)

    def _alike(self, item_id: str, modalities: Sequence[str]) -> tuple[str, ...]:
        """For lists without a blend's reasons: the item of the history whose semantic ID begins most like this one's.

        That is what the model reads of a history: nothing but its items' codes.

        Args:
            modalities: those that the list was made from; none: it is what is popular.
        """
        if not modalities:
            return ("sells well",)
        table = self.recommender.table
        best, said = 0, ("the model's own choice",)
        for name in modalities:
            codes = table.codes[name]
            for other in (item for item in reversed(self.history) if item != item_id):
                same = (codes[table.row_of[item_id]] == codes[table.row_of[other]]) & (codes[table.row_of[other]] >= 0)
                if (shared := int(same.long().cumprod(0).sum())) > best:
                    best, said = shared, (f"like {self.items[other].title} ({name})",)
        return said

    def _in_stock(self) -> list[str]:
        return [item for item in self.recommender.table.item_ids if self.items[item].in_stock is not False]

    def _readable(self, modality: str) -> bool:
        """Whether any item of the history has an ID in what the list is made from."""
        table = self.recommender.table
        rows = [table.row_of[item] for item in self.history]
        return any(bool((table.codes[name][rows, 0] >= 0).any()) for name in self._names(modality))

    def _names(self, modality: str) -> tuple[str, ...]:
        return self.recommender.table.modalities if modality == ENSEMBLE else (modality,)

    def _popularity_note(self, modality: str) -> str:
        if not self.history:
            return "Nothing is picked yet: these items are popular with everybody."
        return f"No picked item has an ID of {modality}: these items are popular with everybody."
