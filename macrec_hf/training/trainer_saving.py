"""What a trained recommender leaves behind: whole model directories, here and on the Hub."""

from concurrent.futures import Future
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from huggingface_hub import CommitInfo, HfApi

from ..hub.model_card import model_card, trainer_facts
from ..hub.saving import parts_that_may_be_absent, save_model_directory
from ..model.modeling_macrec import MacRecForConditionalGeneration
from ..model.modeling_macrec_quantizer import MacRecQuantizer
from ..model.semantic_ids import SemanticIdTable
from ..model.tokenization_macrec import SemanticIdTokenizer
from .sharding import whole_copy
from .trainer_base import MacRecTrainerBase


class MacRecSavingTrainer(MacRecTrainerBase):
    """[`MacRecTrainerBase`] that saves and uploads whole model directories where it has the catalogue's `table`.

    Checkpoints are Trainer's own: weights, optimizer and random states, to go on from.
    """

    table: SemanticIdTable | None = None
    quantizer: MacRecQuantizer | None = None

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Writes a whole model directory, see `hub.saving.save_model_directory`; every process has to call it."""
        if self.table is None or _internal_call:
            super().save_model(output_dir, _internal_call)
            return
        self._write_directory(Path(str(output_dir or self.args.output_dir)))
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
            **kwargs: `license`, `metrics`, `item_counts`, `item_titles`, `card` and `include_code` as in
                `hub.saving.save_model_directory`; without a `table` those of
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
            self._write_directory(Path(folder.name) / "model", **kwargs)
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

    def _write_directory(self, directory: Path, **kwargs: Any) -> None:
        """In the main process; the others hand over their shards of the weights."""
        model = whole_copy(self.accelerator.unwrap_model(self.model), self.accelerator)
        if not self.is_world_process_zero():
            return
        save_model_directory(
            directory,
            model=cast(MacRecForConditionalGeneration, model),
            tokenizer=cast(SemanticIdTokenizer, self.processing_class),
            table=cast(SemanticIdTable, self.table),
            quantizer=self.quantizer,
            training=trainer_facts(self),
            **kwargs,
        )
