"""What a trained recommender leaves behind: whole model directories, here and on the Hub."""

from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from huggingface_hub import CommitInfo, HfApi
from transformers.trainer_utils import has_length

from ..hub.model_card import model_card, trainer_facts
from ..hub.saving import parts_that_may_be_absent, save_model_directory
from ..model.modeling_macrec import MacRecForConditionalGeneration
from ..model.modeling_macrec_quantizer import MacRecQuantizer
from ..model.semantic_ids import SemanticIdTable
from ..model.tokenization_macrec import SemanticIdTokenizer
from .sharding import whole_copy
from .trainer_base import MacRecTrainerBase

if TYPE_CHECKING:
    from datasets import Dataset


class MacRecSavingTrainer(MacRecTrainerBase):
    """[`MacRecTrainerBase`] that saves and uploads whole model directories where it has the catalogue's `table`.

    Checkpoints are Trainer's own: weights, optimizer and random states, to go on from.
    """

    table: SemanticIdTable | None = None
    quantizer: MacRecQuantizer | None = None
    item_counts: torch.Tensor | None = None
    item_titles: Mapping[str, str] | None = None

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Writes a whole model directory; every process has to call it. Without a `table`: Trainer's own saving.

        Args:
            output_dir: `args.output_dir` if left out.
        """
        if self.table is None or _internal_call:
            super().save_model(output_dir, _internal_call)
            return
        self.save_model_directory(str(output_dir or self.args.output_dir))
        if self.args.push_to_hub:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def push_to_hub(  # type: ignore[override]  # Trainer's returns None and futures as well, without saying so
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> CommitInfo | Future[CommitInfo] | None:
        """Uploads a whole model directory to `args.hub_model_id`, which is made if need be.

        Args:
            commit_message, token, revision, private: as in `huggingface_hub`.
            blocking: False: returns at once, with a `Future` of what else is returned.
            **kwargs: as in `save_model_directory`; without a `table` those of
                [`~transformers.Trainer.create_model_card`].

        Returns:
            The `CommitInfo` of the upload; None in other processes than the main one.
        """
        if self.table is None:
            return super().push_to_hub(commit_message, blocking, token, revision, private, **kwargs)
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        token = self.args.hub_token if token is None else token
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        folder = TemporaryDirectory()  # until the upload is done
        try:
            self.save_model_directory(Path(folder.name) / "model", **kwargs)
            upload = self._upload(Path(folder.name) / "model", commit_message, token, revision)
        except BaseException:
            folder.cleanup()
            raise
        if upload is None:
            folder.cleanup()
            return None
        upload.add_done_callback(lambda _: folder.cleanup())
        return upload.result() if blocking else upload

    def _upload(
        self, directory: Path, commit_message: str | None, token: str | None, revision: str | None
    ) -> Future[CommitInfo] | None:
        if not self.is_world_process_zero():
            return None
        self._finish_current_push()
        return HfApi(token=token).upload_folder(
            repo_id=str(self.hub_model_id),
            folder_path=directory,
            commit_message=commit_message,
            revision=self.args.hub_revision if revision is None else revision,
            delete_patterns=parts_that_may_be_absent(inside=True),
            run_as_future=True,
        )

    def create_model_card(
        self, language: str | None = None, license: str | None = None, *args: Any, **kwargs: Any
    ) -> None:
        """The card of a model directory, in the output folder; Trainer's own where there is no table."""
        if self.table is None:
            super().create_model_card(language, license, *args, **kwargs)
        elif self.is_world_process_zero():
            model = self.accelerator.unwrap_model(self.model)
            text = model_card(
                model, self.table, self.quantizer, training=trainer_facts(self), license=license or "unknown"
            )
            (Path(str(self.args.output_dir)) / "README.md").write_text(text, encoding="utf-8")

    def save_model_directory(
        self, directory: str | Path, *, training: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Writes a whole model directory, see `hub.saving.save_model_directory`; every process has to call it.

        The main process writes, the others hand over their shards of the weights.

        Args:
            directory: made if it does not exist.
            training: what made the model, for the card. `None`: what the trainer knows of it.
            **kwargs: `license`, `metrics`, `card` and `include_code` of `hub.saving.save_model_directory`.

        Raises:
            ValueError: the trainer has no `table`.
        """
        if self.table is None:
            raise ValueError(
                "table: expected the catalogue's SemanticIdTable, got None. A model directory is not whole without "
                "it: give it to MacRecTrainer, or write weights and tokenizer alone with save_model."
            )
        model = whole_copy(self.accelerator.unwrap_model(self.model), self.accelerator)
        if not self.is_world_process_zero():
            return
        counts = self.item_counts
        save_model_directory(
            directory,
            model=cast(MacRecForConditionalGeneration, model),
            tokenizer=cast(SemanticIdTokenizer, self.processing_class),
            table=self.table,
            quantizer=self.quantizer,
            item_counts=purchases_shown(self.train_dataset, self.table.num_items) if counts is None else counts,
            item_titles=self.item_titles,
            training=trainer_facts(self) if training is None else training,
            **kwargs,
        )


def purchases_shown(dataset: Any, num_items: int) -> np.ndarray | None:
    """How often each item was bought, as far as the examples of a training split show it.

    A purchase is the target of one example of each sequence task. So an item's count is how often it is the target in
    the task where that is most often. The first purchase of each user is missing: nothing stands before it from which
    it could be told.

    Args:
        dataset: training split of [`RecommendationTasksBuilder`].

    Returns:
        int64 (num_items,); `None` for a dataset without that builder's columns, a stream, or no dataset.
    """
    names = getattr(dataset, "column_names", None) or ()
    if dataset is None or not has_length(dataset) or not {"user", "task", "item"} <= set(names):
        return None
    columns = cast("Dataset", dataset).select_columns(["user", "task", "item"]).with_format("numpy")[:]
    bought = columns["user"] >= 0  # the item tasks have no users
    tasks, items = (columns[name][bought].astype(np.int64) for name in ("task", "item"))
    num_tasks = int(tasks.max(initial=0)) + 1
    return np.bincount(tasks * num_items + items, minlength=num_tasks * num_items).reshape(num_tasks, -1).max(axis=0)
