"""All that a recommender keeps per item, and how ranked rows become recommendations."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from transformers import T5ForConditionalGeneration
from transformers.utils import logging

from .blend import BLEND, BY_MODALITY, MODEL, NEIGHBOUR_TERMS, WINDOWS, Blend, BlendInputs, find_candidates
from .configuration_macrec import MacRecConfig
from .ensemble import ENSEMBLE, Decoding, history_sources, rank_catalogue
from .inference import pad_rows
from .limits import Limits
from .model_decoding import score_items
from .model_files import check_purchase_counts, check_quantizer
from .purchase_counts import HISTORY, PurchaseCounts
from .ranked_lists import SCORED, Candidates, RankedLists, Recommendation, sort_lists
from .semantic_ids import SemanticIdTable
from .tokenization_macrec import SemanticIdTokenizer, TaskEncoder
from .trie import SemanticIdTrie
from .vector_quantization import content_vectors

if TYPE_CHECKING:
    from .modeling_macrec_quantizer import MacRecQuantizer

logger = logging.get_logger(__name__)

BLENDED_AT_A_TIME = 256  # users whose candidates are in memory together
_GROUPS = {  # the terms that one reason stands for
    "near": NEIGHBOUR_TERMS,
    "sold": ("sold", "sold_log", "sold_log1p", "days_since_sale", *(f"sold_in_{days}_days" for days in WINDOWS)),
    "own": ("own", "own_recency", "own_often"),
}


@dataclass(frozen=True)
class ServedCatalogue:
    """All that a recommender keeps per item. It is replaced as a whole: a thread reads parts that belong together.

    Attributes:
        tries: the table in each modality.
        task_encoder: turns histories of the table's rows into sources.
        counts: long, `(num_items,)`, how often each item was taken, or None.
        titles: `{item_id: title}`.
        blend, inputs: the weights of the blend and what its terms are computed from, both None where there are none.
    """

    table: SemanticIdTable
    tries: dict[str, SemanticIdTrie]
    task_encoder: TaskEncoder
    counts: torch.Tensor | None
    titles: dict[str, str]
    blend: Blend | None = None
    inputs: BlendInputs | None = None

    @classmethod
    def of(
        cls,
        table: SemanticIdTable,
        tokenizer: SemanticIdTokenizer,
        counts: torch.Tensor | None,
        titles: Mapping[str, str],
        max_history: int,
    ) -> "ServedCatalogue":
        """Makes tries and task encoder; the tries stand on the CPU."""
        tries = {name: SemanticIdTrie.from_table(table, tokenizer, name) for name in table.modalities}
        return cls(table, tries, TaskEncoder(tokenizer, table, max_history=max_history), counts, dict(titles))

    def __str__(self) -> str:
        serves = "no blend" if self.blend is None else f"{self.blend.serves} serves"
        modalities = ", ".join(self.table.modalities)
        return f"{self.table.num_items:,} items, {modalities}, {self.table.num_levels} levels, {serves}"

    def to(self, device: torch.device) -> "ServedCatalogue":
        """The same with its tries on that device."""
        return replace(self, tries={name: trie.to(device) for name, trie in self.tries.items()})

    def with_blend(
        self, blend: Blend | None, counts: PurchaseCounts | None, quantizer: "MacRecQuantizer | None"
    ) -> "ServedCatalogue":
        """The same with a blend, or without where there are no weights or no counts."""
        if blend is None or counts is None:
            return replace(self, blend=None, inputs=None)
        counts = check_purchase_counts(counts, self.table, blend)
        inputs = BlendInputs(counts, content_of(self.table, quantizer), codes_of(self.table))
        _check_terms(blend, self.table, inputs)
        return replace(self, blend=blend, inputs=inputs)

    def changed(
        self,
        table: SemanticIdTable,
        tokenizer: SemanticIdTokenizer,
        quantizer: "MacRecQuantizer | None",
        titles: Mapping[str, str] | None = None,
    ) -> "ServedCatalogue":
        """The catalogue of another table, some items of which are new or gone; counts and titles of the others stay.

        Args:
            titles: `{item_id: title}` of the new items.

        Raises:
            ValueError: a title of an item that is not new.
        """
        new = [item for item in table.item_ids if item not in self.table.row_of]
        if others := [item for item in titles or {} if item not in set(new)]:
            raise ValueError(f"titles: expected those of the new items, such as {new[:3]}, got one of {others[0]!r}.")
        rows = np.array([self.table.row_of.get(item, -1) for item in table.item_ids], dtype=np.int64)
        counts = None
        if self.counts is not None:
            kept = torch.from_numpy(rows)
            counts = torch.where(kept >= 0, self.counts[kept.clamp(min=0)], 0)
        stay = {item: title for item, title in self.titles.items() if item in table.row_of}
        max_history = self.task_encoder.max_history
        catalogue = ServedCatalogue.of(table, tokenizer, counts, stay | dict(titles or {}), max_history)
        if self.inputs is None:
            return catalogue
        return catalogue.with_blend(self.blend, self.inputs.counts.select(rows), quantizer)

    def chosen_fusion(self, fusion: str | None, modality: str) -> str:
        """ "blend", or a fusion of [`Decoding`]; None takes the blend where there is one.

        Raises:
            ValueError: the blend is asked for, and there is none or a single modality is asked for too.
        """
        if fusion is None:
            fusion = "average" if self.blend is None or modality != ENSEMBLE else BLEND
        elif fusion == BLEND and self.blend is None:
            raise ValueError(
                "fusion: expected a recommender with a blend for 'blend', got one without. `macrec blend`, or "
                "fit_blend in Python, fits one."
            )
        elif fusion == BLEND and modality != ENSEMBLE:
            raise ValueError(f"fusion: expected another than 'blend', which weighs all modalities, for {modality!r}.")
        return "average" if fusion == BLEND and self.blend is not None and self.blend.serves == MODEL else fusion

    def leaves_out_history(self, exclude_history: bool | None, config: MacRecConfig) -> bool:
        """Whether own items are left out; None: see [`hides_history`]."""
        if exclude_history is None:
            return hides_history(self.blend, config)
        if not isinstance(exclude_history, bool):
            raise ValueError(f"exclude_history: expected True, False or None, got {exclude_history!r}.")
        return exclude_history

    def named(
        self, lists: RankedLists, log_probabilities: bool, reasons: Sequence[Sequence[Sequence[str]]] | None = None
    ) -> list[list[Recommendation]]:
        """Ranked rows as people get them; with `log_probabilities` the scores are such."""

        def name(row: int, score: float, why: Sequence[str]) -> Recommendation:
            item = self.table.item_ids[row]
            probability = math.exp(score) if log_probabilities else None
            return Recommendation(item, score, probability, self.titles.get(item) or None, why)

        why = [[()] * lists.items.shape[1]] * len(lists.items) if reasons is None else reasons
        return [
            [name(*place) for place in zip(rows, scores, of_user, strict=True) if place[0] >= 0]
            for rows, scores, of_user in zip(lists.items.tolist(), lists.scores.tolist(), why, strict=True)
        ]

    def decoded(
        self,
        model: T5ForConditionalGeneration,
        rows: Sequence[np.ndarray],
        decoding: Decoding,
        limits: Limits,
        progress: bool = False,
    ) -> tuple[list[list[Recommendation]], list[int]]:
        """The model's own lists.

        Args:
            rows: table rows of each history, oldest first.
            decoding: with `top_k`.
            limits: of the same users.

        Returns:
            The lists, and the users whose history the model cannot read, who get what is popular.

        Raises:
            ValueError: there are such users, and no counts.
        """
        modality, names = decoding.modality, self.table.modalities
        sources = history_sources(self.task_encoder, rows, names if modality not in names else (modality,))
        ranked = rank_catalogue(model, self.tries, sources, decoding, limits=limits, progress=progress)
        unread = [user for user in range(len(rows)) if not any(sources[name][user] for name in sources)]
        found = self.named(ranked[modality], decoding.gives_log_probabilities)
        for user in unread:
            found[user] = self.popular(user, cast(int, decoding.top_k), limits)
        return found, unread

    def blended(
        self,
        model: T5ForConditionalGeneration,
        rows: Sequence[np.ndarray],
        decoding: Decoding,
        limits: Limits,
        progress: bool = False,
    ) -> tuple[list[list[Recommendation]], list[int]]:
        """The lists of the blend, with reasons; arguments and results as in `decoded`, but everybody has a list."""
        blend, inputs, top_k = cast(Blend, self.blend), cast(BlendInputs, self.inputs), cast(int, decoding.top_k)
        sources = history_sources(self.task_encoder, rows, self.table.modalities)
        own = replace(decoding, top_k=None, fusion="authors")  # the modalities' lists alone: nothing is scored anew
        lists = rank_catalogue(model, self.tries, sources, own, limits=limits, progress=progress)
        last_day, found = inputs.counts.last_day, []
        starts = range(0, len(rows), BLENDED_AT_A_TIME)
        for start in logging.tqdm(starts, desc="blending", unit=f"{BLENDED_AT_A_TIME} users", disable=not progress):
            users = np.arange(start, min(start + BLENDED_AT_A_TIME, len(rows)))
            some = [rows[user] for user in users.tolist()]
            of_model = {name: lists[name].rows(users) for name in self.table.modalities}
            days = None if last_day is None else np.full(len(users), last_day)
            candidates = find_candidates(inputs, some, of_model, days=days, limits=limits, users=users, wanted=top_k)
            candidates = blend.scored(candidates, partial(score_items, model, self.tries, sources, users=users))
            ranked = blend.ranked(candidates, some, top_k)
            why = reasons(inputs, some, candidates, ranked.items, blend.serving_weights, self.called)
            if "without_history" in blend.about:
                popular: list[tuple[str, ...]] = [("sells well",)] * ranked.items.shape[1]
                why = [of_user if len(known) else popular for of_user, known in zip(why, some, strict=True)]
            found += self.named(ranked, blend.serves == BLEND, why)  # a rule ranks, it knows no probability
        return found, []

    def called(self, row: int) -> str:
        """The title of the item of a row, or its id."""
        item = self.table.item_ids[row]
        return self.titles.get(item) or item

    def notify(self, histories: Sequence[Sequence[str]], unread: list[int]) -> None:
        """Notices of what was left out, and of who is answered by popularity."""
        skipped = [item for history in histories for item in history if item not in self.table.row_of]
        if named := [*dict.fromkeys(skipped)][:3]:
            logger.warning(f"Left out {len(skipped):,} unknown items of the histories, such as {named}.")
        if unread:
            logger.warning(
                f"{len(unread):,} of {len(histories):,} histories hold no item that the model can read, such as "
                f"history {unread[0]}: recommending what is popular there."
            )

    def popular(self, user: int, top_k: int, limits: Limits) -> list[Recommendation]:
        """The most popular items that may appear, with their smoothed log-share of all purchases as the score."""
        counts = self.counts
        if self.inputs is not None:  # these are counted anew, every day
            counts = torch.from_numpy(self.inputs.counts.popularity)
        if counts is None:
            raise ValueError(
                f"History {user} holds no item that the model can read, and the recommender does not know what is "
                "popular. Leave the user out, or pass item_counts when the recommender is made or saved."
            )
        smoothed = counts.numpy() + 1.0
        scores = np.log(smoothed / smoothed.sum())
        rows = limits.keep(np.arange(len(scores))[None], np.array([user]))
        return self.named(RankedLists(*sort_lists(rows, scores[None], width=top_k)), log_probabilities=True)[0]


def reasons(
    inputs: BlendInputs,
    histories: Sequence[np.ndarray],
    candidates: Candidates,
    shown: np.ndarray,
    weights: Mapping[str, float],
    called: Callable[[int], str],
) -> list[list[tuple[str, ...]]]:
    """Why each shown item stands in its list: the groups of terms that lift it above the user's other candidates.

    Args:
        shown: int64, `(num_users, width)`, rows of the table, -1 in empty places.
        weights: by which the lists were made.
        called: the title of the item of a row.

    Returns:
        For each user and item at most three reasons, strongest first; none for empty places or by negative weights.
    """
    if not candidates.items.shape[1]:  # nothing may be shown
        return [[()] * shown.shape[1] for _ in shown]
    place = (candidates.items[:, None] == shown[:, :, None]).argmax(axis=2)
    inside = candidates.items >= 0
    groups = _GROUPS | {"model": _starting(candidates, SCORED, "model_", "missed_")}
    groups |= {name: _starting(candidates, name) for name in ("alike", "family")}
    speaking = {name: weight for name, weight in weights.items() if weight > 0}
    lifts: dict[str, np.ndarray] = {}
    for group, names in groups.items():
        of_group = [{name: by[name] for name in by if name in names} for by in (weights, speaking)]
        scores = np.where(inside, [candidates.scores(by) for by in of_group], 0.0)
        mean = scores.sum(axis=2, keepdims=True) / np.maximum(inside.sum(axis=1, keepdims=True), 1)
        lifts[group] = np.take_along_axis(scores - mean, place[None], axis=2).min(axis=0)
    words = _words(inputs, histories, candidates, shown, place, called, speaking)
    told: list[list[tuple[str, ...]]] = []
    for user, items in enumerate(shown):
        told.append([])
        for column, item in enumerate(items):
            by = {name: lift[user, column] for name, lift in lifts.items() if item >= 0 and lift[user, column] > 0}
            texts = [words[group](user, column) for group in sorted(by, key=by.__getitem__, reverse=True)]
            told[-1].append(tuple(text for text in texts if text)[:3])
    return told


def _starting(candidates: Candidates, *beginnings: str) -> tuple[str, ...]:
    return tuple(name for name in candidates.terms if name.startswith(beginnings))


def _words(
    inputs: BlendInputs,
    histories: Sequence[np.ndarray],
    candidates: Candidates,
    shown: np.ndarray,
    place: np.ndarray,
    called: Callable[[int], str],
    speaking: Collection[str],
) -> dict[str, Callable[[int, int], str | None]]:
    """For each group of terms its words for the item in a user's place; None where it has nothing to say."""
    recent, inside = pad_rows([np.asarray(history)[::-1][:HISTORY] for history in histories])
    weights = np.where(inside, 1.0 / (np.arange(recent.shape[1]) + 1.0), 0.0)[:, None, :]
    voters, items = np.broadcast_arrays(np.where(inside, recent, -1)[:, None, :], shown[:, :, None])
    before, after = inputs.counts.near_items(voters, items)
    near = weights * (before + after)
    alike = {
        name: weights * np.einsum("uwd,upd->uwp", vectors[np.maximum(shown, 0)], vectors[np.maximum(recent, 0)])
        for name, vectors in inputs.content.items()
        if f"alike_{name}" in speaking
    }
    of_model = [name for name in _starting(candidates, SCORED, "model_") if name in speaking]

    def bought(user: int, column: int) -> str | None:
        if not near[user, column].any():
            return None
        best = int(near[user, column].argmax())
        way = "after" if before[user, column, best] >= after[user, column, best] else "before"
        return f"bought {way} {called(int(recent[user, best]))}"

    def like(user: int, column: int) -> str | None:
        found = [(values[user, column].max(initial=0.0), name) for name, values in alike.items()]
        best = max(found, default=(0.0, ""))
        if best[0] <= 0:
            return None
        other = int(recent[user, int(alike[best[1]][user, column].argmax())])
        return f"like {called(other)} ({best[1]})" if other != shown[user, column] else None

    def model(user: int, column: int) -> str | None:
        said = f"{np.exp(np.mean([candidates.terms[name][user, place[user, column]] for name in of_model])):.1%}"
        return f"the model: {said}" if said != "0.0%" else None

    return {
        "near": bought,
        "alike": like,
        "model": model if of_model else lambda user, column: None,  # an item that it missed speaks without it
        "sold": lambda user, column: "sells well",
        "family": lambda user, column: "like items that sell well",
        "own": lambda user, column: "they have it already" if shown[user, column] in histories[user] else None,
    }


def _check_terms(blend: Blend, table: SemanticIdTable, inputs: BlendInputs) -> None:
    """Refuses weights of terms that would count 0 because nothing here has them; ValueError."""
    for name in blend.serving_weights if blend.serves == BLEND else ():
        modality = next((name.removeprefix(start) for start in BY_MODALITY if name.startswith(start)), None)
        if modality is not None and modality not in table.modalities:
            raise ValueError(
                f"blend: expected weights of the modalities {', '.join(table.modalities)}, got one of {name}. Was "
                "blend.json copied from another model? `macrec blend` fits one anew."
            )
        if name.startswith("alike_") and modality not in inputs.content:
            raise ValueError(
                f"blend: expected the quantizer that tells which items are alike, as the weight of {name} needs it, "
                "got none. Was quantizer/ left out of a copy? Copy it too, or fit anew by `macrec blend`."
            )


def codes_of(table: SemanticIdTable) -> dict[str, np.ndarray]:
    """The semantic IDs as the blend reads them."""
    return {name: table.codes[name].numpy() for name in table.modalities}


def hides_history(blend: Blend | None, config: MacRecConfig) -> bool:
    """Whether lists leave out what a customer has: as the blend was fitted, else as `macrec train` found, else no."""
    of_blend = None if blend is None else blend.about.get("hides_history")
    return bool(config.hides_history if of_blend is None else of_blend)


def content_of(table: SemanticIdTable, quantizer: "MacRecQuantizer | None") -> dict[str, np.ndarray]:
    """Vectors that tell which items are alike, see [`content_vectors`]; empty without a quantizer."""
    if quantizer is None:
        return {}
    check_quantizer(quantizer, table, "quantizer")
    books = {name: book.detach().float().cpu().numpy() for name, book in quantizer.codebooks.items()}
    return content_vectors(codes_of(table), books)
