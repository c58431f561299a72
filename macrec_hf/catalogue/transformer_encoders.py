"""Texts and photos to vectors through any model that `AutoModel` loads."""

from collections.abc import Iterable

import numpy as np
import torch
from huggingface_hub.errors import HFValidationError
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer, PreTrainedConfig
from transformers.utils import ModelOutput

from ..cpu.linear import use_cpu_linear
from ..data.photos import SIZE
from ..model.inference import LOADING
from .encoder_base import centre_and_scale, text_columns_setting

POOLINGS = ("mean", "cls", "pooler")
WRONG_CHECKPOINT = "Probably the checkpoint is of another architecture than its config.json says: use another one."


def _configuration(name: str) -> PreTrainedConfig:
    try:
        return AutoConfig.from_pretrained(name)
    except (OSError, HFValidationError) as error:
        raise OSError(
            f"{name}: expected a folder, or the name of a model of the Hub that can be reached, found neither. Is the "
            "name spelled right? A private model needs `hf auth login`. The offline encoders need no model."
        ) from error


class _TransformerEncoder:
    """What text and image encoders share: loading the model, pooling its states.

    Args:
        model_name: a Hub name or a local folder that `AutoModel` loads.
        pooling: `"mean"` over the positions that the mask keeps, `"cls"` the first position, `"pooler"` the model's
            own (for CLIP-like models the projected feature). `None`: `"pooler"` for CLIP-like models, else `"mean"`.
        device: `None` takes the accelerator if there is one.
        standardize: centre the catalogue and scale it by one number to a mean square of 1 per element, so that eq. 10
            weighs every encoder alike and the weights of eq. 13 keep their meaning (ours).

    Raises:
        ValueError: an unknown pooling, or a pooler that the checkpoint has no weights for.
        OSError: no such model.
    """

    def __init__(
        self, model_name: str, pooling: str | None = None, device: str | None = None, standardize: bool = True
    ):
        self.name, self.standardize = str(model_name), standardize
        self.state: dict[str, np.ndarray] = {}
        self.device = torch.device(device or torch.accelerator.current_accelerator(check_available=True) or "cpu")
        self.two_towers = "vision_config" in _configuration(self.name).sub_configs
        self.pooling = pooling or ("pooler" if self.two_towers else "mean")
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling: expected one of {', '.join(POOLINGS)}, got {pooling!r}.")
        # A checkpoint in half precision is slow or refused on a CPU; on an accelerator it stays as it was saved.
        dtype = torch.float32 if self.device.type == "cpu" else "auto"
        with LOADING:
            self.model, loading = AutoModel.from_pretrained(model_name, dtype=dtype, output_loading_info=True)
        self._check_weights(loading["missing_keys"])
        self.model.to(self.device).eval()
        if self.device.type == "cpu":
            use_cpu_linear(self.model)

    def _check_weights(self, missing_keys: Iterable[str]) -> None:
        missing = sorted(key for key in missing_keys if self.pooling == "pooler" or "pooler" not in key)
        if missing:
            only_pooler = all("pooler" in key for key in missing)
            raise ValueError(
                f"{self.name}: expected weights for the whole model, got none for {missing[:3]} ({len(missing)} in "
                "all): they would stay random and make the embeddings noise. "
                + ("The pooler was never trained: use pooling 'mean' or 'cls'." if only_pooler else WRONG_CHECKPOINT)
            )

    def _pool(self, output: ModelOutput, mask: torch.Tensor | None) -> np.ndarray:
        if self.pooling == "pooler":
            states = output.get("pooler_output")
            if states is None:
                raise ValueError(
                    f"{self.name}: expected a model with a pooler, got one without. Use pooling 'mean' or 'cls'."
                )
            return states.flatten(1).float().cpu().numpy()
        states = output["last_hidden_state"].float()
        if states.ndim == 4:  # convolutional: (batch_size, channels, height, width)
            states = states.flatten(2).transpose(1, 2)
        if self.pooling == "cls":
            return states[:, 0].cpu().numpy()
        mask = torch.ones(states.shape[:2]) if mask is None else mask
        mask = mask.to(states).unsqueeze(-1)
        return ((states * mask).sum(1) / mask.sum(1).clamp(min=1)).cpu().numpy()

    def catalogue_embeddings(self, features: np.ndarray) -> np.ndarray:
        """Features of all items, float32 (num_items, embedding_size), standardised unless told otherwise."""
        if not self.standardize or not np.isfinite(features).all():  # the caller names what is not finite
            return features
        return centre_and_scale(features, self.state)


class TransformerTextEncoder(_TransformerEncoder):
    """Texts through any text model, the text tower of a CLIP-like model, or the encoder of a seq2seq model.

    Args:
        max_length: tokens kept of a text; lowered to what the tokenizer allows.

    Attributes:
        columns: of the items table, joined into the texts; None before the first ones.
    """

    def __init__(
        self,
        model_name: str,
        pooling: str | None = None,
        max_length: int = 256,
        device: str | None = None,
        standardize: bool = True,
    ):
        super().__init__(model_name, pooling, device, standardize)
        self.columns: list[str] | None = None
        self.tokenizer = AutoTokenizer.from_pretrained(model_name)
        if self.tokenizer.pad_token is None:  # decoder-only models often have none
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.tokenizer.padding_side = "right"
        limit = self.model.config.get_text_config().to_dict().get("max_position_embeddings") or max_length
        self.max_length = min(max_length, self.tokenizer.model_max_length, limit)

    @property
    def settings(self) -> dict:
        """What it takes to make the same encoder again, for `meta.json`."""
        given = {"pooling": self.pooling, "max_length": self.max_length, "standardize": self.standardize}
        return given | text_columns_setting(self)

    @torch.inference_mode()
    def batch_features(self, texts: list[str]) -> np.ndarray:
        """Texts to float32 (batch_size, embedding_size)."""
        inputs = self.tokenizer(
            texts, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
        ).to(self.device)
        if self.two_towers:
            output = self.model.get_text_features(**inputs)
        elif self.model.config.is_encoder_decoder:
            output = self.model.get_encoder()(**inputs)
        else:
            output = self.model(**inputs)
        return self._pool(output, inputs.get("attention_mask"))


class TransformerImageEncoder(_TransformerEncoder):
    """Photos through any vision model or the vision tower of a CLIP-like model; pillow does the preprocessing."""

    def __init__(
        self, model_name: str, pooling: str | None = None, device: str | None = None, standardize: bool = True
    ):
        super().__init__(model_name, pooling, device, standardize)
        self.processor = AutoImageProcessor.from_pretrained(model_name, backend="pil")
        sizes = [dict(getattr(self.processor, name, None) or {}) for name in ("size", "crop_size")]
        sides = [side for size in sizes for side in size.values() if isinstance(side, int)]
        self.photo_size = 2 * max(sides, default=SIZE)  # pixels of the shorter side that a photo is opened with

    @property
    def settings(self) -> dict:
        """What it takes to make the same encoder again, for `meta.json`."""
        return {"pooling": self.pooling, "standardize": self.standardize}

    @torch.inference_mode()
    def batch_features(self, photos: list[Image.Image]) -> np.ndarray:
        """RGB photos to float32 (batch_size, embedding_size)."""
        pixels = self.processor(photos, return_tensors="pt")["pixel_values"].to(self.device, self.model.dtype)
        output = self.model.get_image_features(pixels) if self.two_towers else self.model(pixel_values=pixels)
        return self._pool(output, None)
