"""The front door: item ids in, ranked item ids with scores out."""

import math
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from huggingface_hub import CommitInfo, HfApi
from transformers.utils import logging

from .catalogue_ranking import history_sources, rank_catalogue
from .ensemble import ENSEMBLE, NUM_BEAMS, Decoding
from .files import check_hub_arguments
from .limits import ItemIds, Limits, item_rows
from .model_files import (
    Catalogue,
    check_item_counts,
    check_parts,
    load_model_directory,
)
from .modeling_macrec import MacRecForConditionalGeneration
from .ranked_lists import RankedLists, Recommendation, sort_lists
from .semantic_ids import SemanticIdTable
from .tasks import TaskEncoder
from .tokenization_macrec import SemanticIdTokenizer
from .trie import SemanticIdTrie

if TYPE_CHECKING:
    from .modeling_macrec_quantizer import MacRecQuantizer

logger = logging.get_logger(__name__)

Recommendations = list[list[Recommendation]]


class MacRecRecommender:
    """Recommends items of a catalogue to people, by what they took before.

    Args:
        model: the trained recommender; it is put into eval mode and stays on its device.
        tokenizer: the one that it was trained with.
        table: the catalogue's semantic IDs.
        quantizer: what made them, kept so that items can be added later; not needed to recommend.
        item_counts: integers, `(num_items,)`, how often each item was taken: with them, a user without a usable
            history gets the most popular items.
        item_titles: `{item_id: title}`, kept beside the model to be shown.
        max_history: items of a history that are read, the last ones. None: as many as the model was trained with.
        use_cpu_kernels: on a CPU, replace layers of the model by faster ones with the same weights, and on another
            device take them back (`macrec_hf.cpu.accelerate` and `restore`). False: the model stays as it is.

    Attributes:
        tries: the catalogue in each modality, on the model's device.
        task_encoder: the `TaskEncoder` that turns histories into sources.

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
        max_history: int | None = None,
        use_cpu_kernels: bool = True,
    ):
        check_parts(model, tokenizer, table)
        self.model, self.tokenizer, self.table = model.eval(), tokenizer, table
        self.use_cpu_kernels = use_cpu_kernels
        self._fit_to_device()
        self.item_counts = check_item_counts(item_counts, table)
        self.item_titles = dict(item_titles or {})
        self._quantizer = quantizer
        self._load_quantizer: Callable[[], MacRecQuantizer | None] | None = None
        self._card: str | None = None
        tries = {name: SemanticIdTrie.from_table(table, tokenizer, name) for name in table.modalities}
        self.tries = {name: trie.to(model.device) for name, trie in tries.items()}
        max_history = model.config.max_history if max_history is None else max_history
        self.task_encoder = TaskEncoder(tokenizer, table, max_history=max_history)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype = "auto",
        max_history: int | None = None,
        use_cpu_kernels: bool = True,
        **hub_kwargs: Any,
    ) -> "MacRecRecommender":
        """Loads a model directory or a repository of the Hub.

        Args:
            name_or_path: a directory that `save_pretrained` or `macrec train` wrote, or a repository id.
            device: where the model is put; "auto": on the accelerator if there is one, else on the CPU.
            dtype: of the weights, such as `torch.bfloat16` or `"bfloat16"`; "auto": as they were saved.
            max_history, use_cpu_kernels: see the class.
            **hub_kwargs: `revision`, `token`, `cache_dir`, `local_files_only`, … of `snapshot_download`.

        Raises:
            TypeError: an argument that is neither one of these nor `snapshot_download`'s.
            FileNotFoundError, OSError, ValueError: see `model.model_files.load_model_directory`.
        """
        check_hub_arguments(hub_kwargs, ("device", "dtype", "max_history", "use_cpu_kernels"))
        if device == "auto":
            device = torch.accelerator.current_accelerator(check_available=True) or "cpu"
        parts = load_model_directory(name_or_path, dtype=dtype, **hub_kwargs)
        parts.model.to(device)  # type: ignore[arg-type]  # transformers types it by a decorator
        return cls._of_catalogue(parts.model, parts.tokenizer, parts, max_history, use_cpu_kernels)

    @classmethod
    def _of_catalogue(
        cls,
        model: MacRecForConditionalGeneration,
        tokenizer: SemanticIdTokenizer,
        catalogue: Catalogue,
        max_history: int | None = None,
        use_cpu_kernels: bool = True,
    ) -> "MacRecRecommender":
        """A model that was loaded already, with what stands beside it in its directory."""
        recommender = cls(
            model=model,
            tokenizer=tokenizer,
            table=catalogue.table,
            item_counts=catalogue.item_counts,
            item_titles=catalogue.item_titles,
            max_history=max_history,
            use_cpu_kernels=use_cpu_kernels,
        )
        recommender._load_quantizer, recommender._card = catalogue.load_quantizer, catalogue.card
        return recommender

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
        self.tries = {name: trie.to(self.model.device) for name, trie in self.tries.items()}
        return self

    def _fit_to_device(self) -> None:
        """`macrec_hf.cpu`'s parts where the model stands on a CPU, its own elsewhere; without the package its own."""
        if self.use_cpu_kernels and _is_installed():
            cpu = import_module("macrec_hf.cpu")
            (cpu.accelerate if self.model.device.type == "cpu" else cpu.restore)(self.model)

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        top_k: int = 10,
        num_beams: int = NUM_BEAMS,
        modality: str = ENSEMBLE,
        fusion: str = "average",
        allowed_items: ItemIds | None = None,
        excluded_items: ItemIds | None = None,
        exclude_history: bool = False,
        on_unknown: str = "raise",
        batch_size: int = 64,
        progress: bool = False,
    ) -> Recommendations:
        """Ranks the whole catalogue for each history.

        Args:
            histories: item ids of each user, oldest first; the last `max_history` of the model's configuration count.
            top_k: items for each user. Fewer come back only where fewer are allowed.
            num_beams: distinct IDs that are kept per modality; raised to `top_k` where it is smaller.
            modality: "ensemble", or one of the table's.
            fusion: "average" or "authors", see `model.ensemble.Decoding`.
            allowed_items: ids that may appear, for everybody or one list a user. None: all.
            excluded_items: ids that may not appear, in the same form.
            exclude_history: whether a user's own items may not appear. By default they may: people buy again.
            on_unknown: "raise", or "skip" to leave out ids that the table lacks, in histories and limits.
            batch_size: users at a time.
            progress: whether to show a progress bar.

        Returns:
            For each history a list of `Recommendation`, best first, no item twice. Each unpacks as `(item_id, score)`
            and has `probability` and `title`. The score is a log-probability, with `fusion="average"` the mean of the
            modalities'; with "authors" it is none. A history without any item that the model can read is answered by
            popularity.

        Raises:
            ValueError: an unknown item, argument or modality; a history that cannot be read and no `item_counts`.
        """
        decoding = Decoding(num_beams=num_beams, top_k=top_k, modality=modality, fusion=fusion, batch_size=batch_size)
        self._check(histories, top_k, on_unknown)
        if not len(histories):
            return []
        skip = on_unknown == "skip"
        row_of = self.table.row_of
        rows = [item_rows(row_of, history, f"history {user}", skip) for user, history in enumerate(histories)]
        left_out = rows if exclude_history else None
        limits = Limits.from_ids(row_of, len(rows), allowed_items, excluded_items, left_out, skip_unknown=skip)
        names = self.table.modalities
        sources = history_sources(self.task_encoder, rows, names if modality not in names else (modality,))
        lists = rank_catalogue(
            self.model,
            self.tries,
            sources,
            decoding,
            limits=limits,
            progress=progress,
        )[modality]
        unread = [user for user in range(len(rows)) if not any(sources[name][user] for name in sources)]
        self._say(histories, rows, unread)
        found = self._named(lists, decoding.gives_log_probabilities)
        for user in unread:
            found[user] = self._popular(user, top_k, limits)
        return found

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> Path:
        """Writes a whole model directory.

        Args:
            **kwargs: `include_code`, `metrics`, `training`, `license` and `card` as in `save_model_directory`; the
                card of the directory that the recommender came from goes along unless they name another.
        """
        if self._card is not None and not {"training", "license"} & set(kwargs):
            kwargs.setdefault("card", self._card)
        return _saving().save_model_directory(
            save_directory,
            model=self.model,
            tokenizer=self.tokenizer,
            table=self.table,
            quantizer=self.quantizer,
            item_counts=self.item_counts,
            item_titles=self.item_titles,
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
            **kwargs: as in `save_pretrained`.

        Returns:
            The `CommitInfo` of the upload.
        """
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with TemporaryDirectory() as folder:
            directory = self.save_pretrained(Path(folder) / "model", **kwargs)
            return api.upload_folder(
                repo_id=repo_id,
                folder_path=directory,
                revision=revision,
                commit_message=commit_message,
                delete_patterns=_saving().parts_that_may_be_absent(inside=True),  # what the folder has not
            )

    def _check(self, histories: Sequence[Sequence[str]], top_k: int, on_unknown: str) -> None:
        if isinstance(histories, str) or any(isinstance(history, str) for history in histories):
            raise ValueError(
                'histories: expected a list of histories such as [["i1", "i7"], ["i3"]], got item ids where histories '
                "should be. Put a single history into a list: recommend([history])."
            )
        if top_k is None:  # a list as long as what the beams hold is for evaluations
            raise ValueError("top_k: expected a whole number of at least 1, got None.")
        if on_unknown not in ("raise", "skip"):
            raise ValueError(f"on_unknown: expected 'raise' or 'skip', got {on_unknown!r}.")

    def _say(self, histories: Sequence[Sequence[str]], rows: Sequence[np.ndarray], unread: list[int]) -> None:
        """Notices of what was left out, and of who is answered by popularity."""
        skipped = [item for history in histories for item in history if item not in self.table.row_of]
        if skipped:
            logger.warning(f"Left out {len(skipped):,} unknown items of the histories, such as {skipped[:3]}.")
        if unread and self.item_counts is not None:
            logger.warning(
                f"{len(unread):,} of {len(rows):,} histories hold no item that the model can read, such as history "
                f"{unread[0]}: recommending what is popular there."
            )

    def _named(self, lists: RankedLists, log_probabilities: bool) -> Recommendations:
        ids, titles = self.table.item_ids, self.item_titles

        def named(row: int, score: float) -> Recommendation:
            probability = math.exp(score) if log_probabilities else None
            return Recommendation(ids[row], score, probability, titles.get(ids[row]) or None)

        return [
            [named(row, score) for row, score in zip(rows, scores, strict=True) if row >= 0]
            for rows, scores in zip(lists.items.tolist(), lists.scores.tolist(), strict=True)
        ]

    def _popular(self, user: int, top_k: int, limits: Limits) -> list[Recommendation]:
        """The most popular items that may appear, with their smoothed log-share of all purchases as the score."""
        if self.item_counts is None:
            raise ValueError(
                f"History {user} holds no item that the model can read, and the recommender does not know what is "
                "popular. Leave the user out, or pass item_counts when the recommender is made or saved."
            )
        counts = self.item_counts.numpy() + 1.0
        scores = np.log(counts / counts.sum())
        rows = limits.keep(np.arange(len(scores))[None], np.array([user]))
        return self._named(RankedLists(*sort_lists(rows, scores[None], width=top_k)), log_probabilities=True)[0]


def _is_installed() -> bool:
    """Whether there is more than what travels with a model: a process may have this file from a repository."""
    return find_spec("macrec_hf") is not None


def _saving() -> ModuleType:
    """The part of the package that writes model directories."""
    if not _is_installed():
        raise RuntimeError(
            "Expected the package macrec_hf, which writes model directories, found only what travels with a model. "
            "Install it: pip install macrec-hf."
        )
    return import_module("macrec_hf.hub.saving")
