"""The front door: item ids in, ranked item ids with scores out."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from huggingface_hub import CommitInfo

from .blend import BLEND, Blend
from .ensemble import ENSEMBLE, NUM_BEAMS, Decoding
from .files import check_hub_arguments, package_is_installed, package_part
from .inference import chosen_device, chosen_dtype
from .limits import ItemIds, Limits, check_histories, item_rows
from .model_files import Catalogue, check_item_counts, check_parts, load_model_directory
from .modeling_macrec import MacRecForConditionalGeneration
from .purchase_counts import PurchaseCounts
from .ranked_lists import Recommendation
from .semantic_ids import SemanticIdTable
from .served_catalogue import ServedCatalogue
from .tokenization_macrec import SemanticIdTokenizer, TaskEncoder
from .trie import SemanticIdTrie

if TYPE_CHECKING:
    from .modeling_macrec_quantizer import MacRecQuantizer

Recommendations = list[list[Recommendation]]


class MacRecRecommender:
    """Recommends items of a catalogue to users, by their histories.

    Args:
        model: the trained recommender; it is put into eval mode and stays on its device.
        tokenizer: the one that it was trained with.
        table: the catalogue's semantic IDs.
        quantizer: the one that made the IDs, kept so that items can be added later; not needed to recommend.
        item_counts: integers, `(num_items,)`, how often each item was taken: with them, a user without a usable
            history gets the most popular items.
        item_titles: `{item_id: title}`, kept beside the model to be shown.
        purchase_counts, blend: what customers did and the weights of the blend, both or neither; see `fit_blend`.
        max_history: items of a history that are read, the last ones. None: as many as the model was trained with.
        use_cpu_kernels: on a CPU, replace layers of the model by faster ones with the same weights, and on another
            device take them back (`macrec_hf.cpu.accelerate` and `restore`). False: the model stays as it is.
        use_gpu_kernels: the same on a CUDA device, where searches are also recorded as CUDA graphs (`macrec_hf.gpu`).

    Raises:
        ValueError: the parts do not belong together.

    Example:

    ```python
    >>> recommender = MacRecRecommender.from_pretrained("user/macrec-shop")
    >>> for item_id, score in recommender.recommend([["i1", "i7"]], top_k=2)[0]:
    ...     print(item_id, score)
    i9 -3.1
    i4 -4.0
    >>> recommender.recommend([["i3"]], top_k=1)
    [[Recommendation('i1', -2.7, probability=0.0672, title='Blue mug')]]
    ```
    """

    def __init__(
        self,
        *,
        model: MacRecForConditionalGeneration,
        tokenizer: SemanticIdTokenizer,
        table: SemanticIdTable,
        quantizer: "MacRecQuantizer | None" = None,
        item_counts: torch.Tensor | np.ndarray | None = None,
        item_titles: Mapping[str, str] | None = None,
        purchase_counts: PurchaseCounts | None = None,
        blend: Blend | None = None,
        max_history: int | None = None,
        use_cpu_kernels: bool = True,
        use_gpu_kernels: bool = True,
    ):
        check_parts(model, tokenizer, table)
        self.model, self.tokenizer = model.eval(), tokenizer
        self.use_cpu_kernels, self.use_gpu_kernels = use_cpu_kernels, use_gpu_kernels
        self._fit_to_device()
        self._quantizer = quantizer
        self._load_quantizer: Callable[[], MacRecQuantizer | None] | None = None
        self._card: str | None = None
        self.learned_histories: torch.Tensor | None = None  # fingerprints, see `data/fingerprints.py`
        self._has_loaded_model = False  # else the caller's, who may have given it to other recommenders too
        counts = check_item_counts(item_counts, table)
        max_history = model.config.max_history if max_history is None else max_history
        self._items = ServedCatalogue.of(table, tokenizer, counts, item_titles or {}, max_history).to(model.device)
        self._items = self._items.with_blend(blend, purchase_counts, quantizer)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype = "auto",
        max_history: int | None = None,
        use_cpu_kernels: bool = True,
        use_gpu_kernels: bool = True,
        **hub_kwargs: Any,
    ) -> "MacRecRecommender":
        """Loads a model directory or a repository of the Hub.

        Args:
            name_or_path: a directory that `save_pretrained` or `macrec train` wrote, or a repository id.
            device: where the model is put; "auto": on the accelerator if there is one, else on the CPU.
            dtype: of the weights, such as `torch.bfloat16` or `"bfloat16"`; "auto": as they were saved.
            max_history, use_cpu_kernels, use_gpu_kernels: see the class.
            **hub_kwargs: `revision`, `token`, `cache_dir`, `local_files_only`, … of `snapshot_download`.

        Raises:
            TypeError: an argument that is neither one of these nor `snapshot_download`'s.
            FileNotFoundError, OSError, ValueError: see `model.model_files.load_model_directory`.
        """
        check_hub_arguments(hub_kwargs, ("device", "dtype", "max_history", "use_cpu_kernels", "use_gpu_kernels"))
        place, dtype = chosen_device(device), chosen_dtype(dtype)
        parts = load_model_directory(name_or_path, dtype=dtype, **hub_kwargs)
        parts.model.to(place)  # type: ignore[arg-type]  # transformers types it by a decorator
        kernels = {"use_cpu_kernels": use_cpu_kernels, "use_gpu_kernels": use_gpu_kernels}
        return cls._of_catalogue(parts.model, parts.tokenizer, parts, max_history=max_history, **kernels)

    @classmethod
    def _of_catalogue(
        cls,
        model: MacRecForConditionalGeneration,
        tokenizer: SemanticIdTokenizer,
        catalogue: Catalogue,
        **options: Any,
    ) -> "MacRecRecommender":
        """A model that was loaded already, with what stands beside it in its directory."""
        recommender = cls(
            model=model,
            tokenizer=tokenizer,
            table=catalogue.table,
            item_counts=catalogue.item_counts,
            item_titles=catalogue.item_titles,
            **options,
        )
        recommender._load_quantizer, recommender._card = catalogue.load_quantizer, catalogue.card
        recommender._set_blend(catalogue.blend, catalogue.purchase_counts)
        recommender._has_loaded_model, recommender.learned_histories = True, catalogue.learned_histories
        return recommender

    def __repr__(self) -> str:
        return f"MacRecRecommender({self._items}, {self.model.num_parameters():,} parameters on {self.model.device})"

    @property
    def table(self) -> SemanticIdTable:
        """The catalogue's semantic IDs."""
        return self._items.table

    @property
    def tries(self) -> dict[str, SemanticIdTrie]:
        """The catalogue in each modality, on the model's device."""
        return self._items.tries

    @property
    def task_encoder(self) -> TaskEncoder:
        """The `TaskEncoder` that turns histories into the model's input."""
        return self._items.task_encoder

    @property
    def item_counts(self) -> torch.Tensor | None:
        """How often each item was taken, `(num_items,)`."""
        return self._items.counts

    @property
    def item_titles(self) -> dict[str, str]:
        """`{item_id: title}`."""
        return self._items.titles

    @property
    def blend(self) -> Blend | None:
        """The weights of the blend; None where none was fitted."""
        return self._items.blend

    @property
    def purchase_counts(self) -> PurchaseCounts | None:
        """What customers did, as the blend reads it; None where none was fitted."""
        return None if self._items.inputs is None else self._items.inputs.counts

    def _set_blend(self, blend: Blend | None, counts: PurchaseCounts | None) -> None:
        self._items = self._items.with_blend(blend, counts, None if blend is None else self.quantizer)

    @property
    def quantizer(self) -> "MacRecQuantizer | None":
        """The `MacRecQuantizer`, read from the model directory at the first use; None where there is none."""
        if self._quantizer is None and self._load_quantizer is not None:
            self._quantizer, self._load_quantizer = self._load_quantizer(), None
        return self._quantizer

    def to(self, device: str | torch.device) -> "MacRecRecommender":
        """Moves model and catalogue to a device; returns itself."""
        self.model.to(device)
        self._fit_to_device()
        self._items = self._items.to(self.model.device)
        return self

    def _fit_to_device(self) -> None:
        """The parts of `macrec_hf.cpu` or `macrec_hf.gpu` by where the model stands; without the package its own."""
        if package_is_installed():
            here, cpu, gpu = self.model.device.type, import_module("macrec_hf.cpu"), import_module("macrec_hf.gpu")
            rooms = [("cpu", self.use_cpu_kernels, cpu), ("cuda", self.use_gpu_kernels, gpu)]
            for kind, wanted, room in sorted(rooms, key=lambda each: each[0] == here):  # taken back before others come
                if wanted:
                    (room.accelerate if kind == here else room.restore)(self.model)

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        top_k: int = 10,
        num_beams: int = NUM_BEAMS,
        modality: str = ENSEMBLE,
        fusion: str | None = None,
        allowed_items: ItemIds | None = None,
        excluded_items: ItemIds | None = None,
        exclude_history: bool | None = None,
        on_unknown: str = "raise",
        batch_size: int | None = None,
        progress: bool = False,
    ) -> Recommendations:
        """Ranks the whole catalogue for each history.

        Args:
            histories: item ids of each user, oldest first; the last `max_history` of the model's configuration count.
            top_k: items for each user. Fewer come back only where fewer are allowed.
            num_beams: distinct IDs that are kept per modality; raised to `top_k` where it is smaller.
            modality: "ensemble", or one of the table's.
            fusion: "blend": the model and the purchases, weighed on validation; "average" or "authors", see
                `model.ensemble.Decoding`. None: "blend" where there is one and no single modality is asked for, else
                "average".
            allowed_items: ids that may appear, for everybody or one list a user. None: all.
            excluded_items: ids that may not appear, in the same form.
            exclude_history: whether a user's own items may not appear. None: they are left out where the blend, or
                else `macrec train`, found that fewer than 1 % of purchases are repeats; else they may appear.
            on_unknown: "raise", or "skip" to leave out ids that the table lacks, in histories and limits.
            batch_size: users at a time; None: 64 on a CPU, up to 512 on a GPU.
            progress: whether to show a progress bar.

        Returns:
            For each history a list of `Recommendation`, best first, no item twice. Each unpacks as `(item_id, score)`
            and has `probability` and `title`. The score is a log-probability, with `fusion="average"` the mean of the
            modalities'; with `fusion="authors"`, and where a rule serves alone, it only ranks. A history without any
            item that the model can read gets the most popular items.

        Raises:
            ValueError: an unknown item, argument or modality; a history that cannot be read and no `item_counts`.
        """
        fusion = self._items.chosen_fusion(fusion, modality)
        fused = "average" if fusion == BLEND else fusion
        decoding = Decoding(num_beams=num_beams, top_k=top_k, modality=modality, fusion=fused, batch_size=batch_size)
        check_histories(histories, top_k, on_unknown)
        if not len(histories):
            return []
        skip, catalogue = on_unknown == "skip", self._items
        row_of = catalogue.table.row_of
        rows = [item_rows(row_of, history, f"history {user}", skip) for user, history in enumerate(histories)]
        left_out = rows if catalogue.leaves_out_history(exclude_history, self.model.config) else None
        limits = Limits.from_ids(row_of, len(rows), allowed_items, excluded_items, left_out, skip_unknown=skip)
        make = catalogue.blended if fusion == BLEND else catalogue.decoded
        found, unread = make(self.model, rows, decoding, limits, progress)
        catalogue.notify(histories, unread)
        return found

    def add_items(
        self,
        embeddings: "Mapping[str, np.ndarray | torch.Tensor] | Any",
        item_ids: Sequence[str] | None = None,
        titles: Mapping[str, str] | None = None,
        modality_mask: Mapping[str, np.ndarray | torch.Tensor] | None = None,
    ) -> None:
        """Adds items: they get semantic IDs, may be in histories and be recommended. Nothing is trained.

        Table, tries, counts (0 for a new item) and titles change together, once all are made: another thread that
        recommends meanwhile sees the catalogue before or after. `table.report` is then about the new items.

        Args:
            embeddings: of the new items, from the encoders that the quantizer was trained on: an `EmbeddingStore`, or
                `{modality: float (num_items, embedding_size)}`.
            item_ids: one per row, none of them known. Default: the store's own.
            titles: `{item_id: title}` of the new items.
            modality_mask: `{modality: bool (num_items,)}`, False = the item has none and gets no ID there. A store
                knows this by itself.

        Raises:
            ValueError: no quantizer, a known item, a title of another item, and the errors of `macrec_hf.add_items`.
                Nothing has changed then.
            RuntimeError: the package is not installed.
        """
        quantizer = self.quantizer
        indexing = package_part("catalogue.indexing", "adds and removes items")
        if quantizer is None:
            raise ValueError(
                "quantizer: expected the one that gave the items their semantic IDs, got None: new ones need it. "
                "`macrec train --semantic-ids ids/` keeps it where ids/ has one; or give it to the recommender."
            )
        table = indexing.add_items(self.table, quantizer, embeddings, item_ids, modality_mask=modality_mask)
        self._replace_items(table, titles)

    def remove_items(self, item_ids: Iterable[str]) -> None:
        """Takes items out of table, tries, counts and titles together, as `add_items` puts them in.

        The other items keep their IDs. From then on a removed item in a history is an unknown item.

        Raises:
            ValueError: an unknown item, or a modality would be left without items. Nothing has changed then.
            RuntimeError: the package is not installed.
        """
        indexing = package_part("catalogue.indexing", "adds and removes items")
        self._replace_items(indexing.remove_items(self.table, item_ids))

    def _replace_items(self, table: SemanticIdTable, titles: Mapping[str, str] | None = None) -> None:
        items = self._items.changed(table, self.tokenizer, self.quantizer, titles)
        self._items = items.to(self.model.device)
        if self._has_loaded_model:
            self.model.semantic_ids = table  # what its own `generate` may write

    def fit_blend(self, interactions: Any, progress: bool = False) -> Blend:
        """Fits the blend on validation purchases, counts all purchases, and recommends by it; returns the blend.

        Args:
            interactions: those that the model was trained on: a path for `macrec_hf.read_interactions`, or the table
                that it returns. The fit counts all but each user's last two purchases and explains the last but one;
                afterwards all are counted, to serve.
            progress: whether to show a progress bar.

        Raises:
            ValueError: items that the table lacks, and whatever `read_interactions` finds wrong.
            RuntimeError: the package is not installed.
        """
        fitting = package_part("training.blend_fitting", "fits a blend")
        blend, counts = fitting.fit_and_count(self, interactions, progress=progress)
        self._set_blend(blend, counts)
        return blend

    def refresh(self, interactions: Any) -> None:
        """Counts purchases anew, for the weights that were fitted before. Nothing is trained.

        Raises:
            ValueError: there is no blend yet, or items that the table lacks.
            RuntimeError: the package is not installed.
        """
        if self.blend is None:
            raise ValueError("blend: expected one, got None. Fit it first: fit_blend(interactions) or `macrec blend`.")
        counting = package_part("training.serving_counts", "counts purchases")
        self._set_blend(self.blend, counting.serving_counts(interactions, self.table, self.blend))

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> Path:
        """Writes a whole model directory.

        Args:
            **kwargs: of `save_model_directory`, such as `include_code`, `counts` and `license`; the card of where the
                recommender came from goes along unless `card`, `training` or `license` name another.
        """
        if self._card is not None and not {"training", "license"} & set(kwargs):
            kwargs.setdefault("card", self._card)
        items = self._items
        return package_part("hub.saving", "writes model directories").save_model_directory(
            save_directory,
            model=self.model,
            tokenizer=self.tokenizer,
            table=items.table,
            quantizer=self.quantizer,
            item_counts=items.counts,
            item_titles=items.titles,
            purchase_counts=self.purchase_counts,
            blend=items.blend,
            learned_histories=self.learned_histories,
            **kwargs,
        )

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        commit_message: str = "Upload recommender",
        **kwargs: Any,
    ) -> CommitInfo:
        """Writes a whole model directory and uploads it to the Hub, where the repository is made if need be.

        Args:
            repo_id: such as `user/macrec-shop`.
            private, token, revision, commit_message: as in `huggingface_hub`.
            **kwargs: as in `save_pretrained`; `counts` is "none" here unless given.

        Returns:
            The `CommitInfo` of the upload.
        """
        saving = package_part("hub.saving", "writes model directories")
        upload = {"private": private, "token": token, "revision": revision, "commit_message": commit_message}
        return saving.upload(partial(self.save_pretrained, **{"counts": "none"} | kwargs), repo_id, **upload)
