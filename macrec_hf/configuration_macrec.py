"""Every default of the package and its source, on one page.

"paper" is *Multi-Aspect Cross-modal Quantization for Generative Recommendation* (MACRec), "authors' code" is what its
public implementation does where the paper is silent.
"""

from collections.abc import Mapping
from dataclasses import field

from transformers import PreTrainedConfig, T5Config

# In a process without the package, transformers makes modules of the code that a repository carries.
_INSTALLED = not __name__.startswith("transformers_modules.")


def _without_remote_code(arguments: dict) -> dict:
    """What a configuration says of code beside the model counts only where the package is absent.

    Else `pipeline` would run that code rather than ours, and a model saved anew would name code that is not there.
    """
    return {
        name: value
        for name, value in arguments.items()
        if not (_INSTALLED and name in ("auto_map", "custom_pipelines"))
    }


def _default(value, meaning: str, source: str):
    return field(default=value, metadata={"help": meaning, "source": source})


class MacRecQuantizerConfig(PreTrainedConfig):
    """Configuration of [`MacRecQuantizer`].

    Args:
        modalities: `{name: embedding size}` or `((name, size), ...)`. Kept as pairs because `config.json` sorts its
            keys and the order decides the tokens: the first modality is written `<a_0>`, the second `<A_0>`.
        contrastive_weights: one weight per level for eq. 6. `None` gives the paper's rule: 0 for the first two levels,
            0.1 from the third on.

    The other arguments carry their meaning and source beside their default.

    Raises:
        ValueError: no modality, a repeated name, a size below one, weights that do not match `num_levels`, ...

    Example:

    ```python
    >>> MacRecQuantizerConfig(modalities={"text": 384, "image": 512}).modalities
    (('text', 384), ('image', 512))
    ```
    """

    model_type = "macrec-quantizer"

    modalities: Mapping[str, int] | tuple = _default(
        (("text", 4096), ("image", 768)),
        "embedding size of each modality",
        "paper, implementation details: LLaMA text features, ViT-L/14 image features",
    )
    num_levels: int = _default(4, "levels of residual quantization, the length of a semantic ID", "paper: 4 levels")
    codebook_size: int = _default(256, "codewords per level", "paper: M = 256")
    codebook_dim: int = _default(32, "size of the latent and of a codeword", "authors' code")
    hidden_sizes: tuple = _default(
        (2048, 1024, 512, 256, 128, 64), "encoder widths; the decoder mirrors them", "authors' code"
    )
    dropout: float = _default(0.0, "dropout before each linear layer", "authors' code")
    num_pseudo_labels: int = _default(512, "k-means clusters per modality (eq. 1)", "paper: K = 512")
    commitment_weight: float = _default(0.25, "alpha of eq. 11", "authors' code")
    contrastive_weights: tuple | None = _default(
        None, "lambda_con of eq. 13, one per level; 0 for the first two levels, 0.1 from the third on", "paper"
    )
    alignment_weight: float = _default(0.001, "lambda_align of eq. 13", "paper")
    contrastive_temperature: float = _default(0.1, "tau of eq. 4-8", "paper: 0.1")
    contrastive_normalize: bool = _default(
        True, "cosine instead of the raw inner product in eq. 4-5", "authors' code; raw products at tau = 0.1 overflow"
    )

    def __post_init__(self, **kwargs):
        pairs = self.modalities.items() if isinstance(self.modalities, Mapping) else self.modalities
        try:
            self.modalities = tuple((str(name), int(size)) for name, size in pairs)
        except (TypeError, ValueError) as error:
            raise ValueError(
                "modalities: expected a dict {name: embedding size} or pairs of them, such as {'text': 384}, "
                f"got {self.modalities!r}."
            ) from error
        self.hidden_sizes = tuple(int(size) for size in self.hidden_sizes)
        if self.contrastive_weights is None:
            self.contrastive_weights = tuple(0.0 if level < 2 else 0.1 for level in range(self.num_levels))
        self.contrastive_weights = tuple(float(weight) for weight in self.contrastive_weights)
        self._check()
        super().__post_init__(**_without_remote_code(kwargs))

    def _check(self):
        names = [name for name, _ in self.modalities]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"modalities: expected at least one, each name once, got {self.modalities!r}.")
        bad_names = [name for name in names if not name.replace("_", "").isalnum()]
        if bad_names:
            raise ValueError(
                f"modalities: a name may hold letters, digits and underscores (it becomes part of tokens and of file "
                f"names), got {bad_names!r}."
            )
        sizes = {
            "num_levels": self.num_levels,
            "codebook_size": self.codebook_size,
            "codebook_dim": self.codebook_dim,
            "num_pseudo_labels": self.num_pseudo_labels,
            **{f"modalities[{name!r}]": size for name, size in self.modalities},
            **{f"hidden_sizes[{index}]": size for index, size in enumerate(self.hidden_sizes)},
        }
        for name, size in sizes.items():
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(f"{name}: expected a whole number of at least 1, got {size!r}.")
        if len(self.contrastive_weights) != self.num_levels:
            raise ValueError(
                f"contrastive_weights: expected one weight for each of the {self.num_levels} levels, got "
                f"{len(self.contrastive_weights)}: {self.contrastive_weights}. Give as many weights as num_levels, or "
                "None for the paper's rule (0 for the first two levels, 0.1 from the third on)."
            )
        if not self.contrastive_temperature > 0:
            raise ValueError(
                f"contrastive_temperature: expected a number above 0, got {self.contrastive_temperature}."
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: expected a number in [0, 1), got {self.dropout}.")
        for name in ("commitment_weight", "alignment_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected a number of at least 0, got {getattr(self, name)}.")


class MacRecConfig(T5Config):
    """Configuration of [`MacRecForConditionalGeneration`]: a T5 of the paper's size over semantic-ID tokens.

    Args:
        vocab_size: `len(tokenizer)`; the default is two modalities of 4 levels × 256 codes, four task tokens and
            `<pad>`, `</s>`, `<unk>`.

    Every other argument of [`~transformers.T5Config`] is taken too.

    Example:

    ```python
    >>> MacRecConfig(vocab_size=2055).d_model
    128
    ```
    """

    model_type = "macrec"
    keys_to_ignore_at_inference = [
        "past_key_values",
        "encoder_last_hidden_state",
        "generation_loss",
        "alignment_loss",
    ]

    vocab_size: int = _default(2055, "size of the vocabulary", "3 special + 4 task + 2 x 4 x 256 code tokens")
    d_model: int = _default(128, "size of the hidden states", "authors' code")
    d_kv: int = _default(64, "size of an attention head", "paper: dimension 64")
    d_ff: int = _default(1024, "size of the feed-forward layers", "authors' code")
    num_layers: int = _default(4, "encoder layers", "paper: 4")
    num_decoder_layers: int | None = _default(4, "decoder layers", "paper: 4")
    num_heads: int = _default(6, "attention heads", "paper: 6")
    dropout_rate: float | int = _default(0.1, "dropout", "T5's default, kept by the authors' code")
    attention_dropout_rate: float | None = _default(
        None, "dropout of attention weights; None = dropout_rate, as in T5. 0 is much faster on a CPU", "T5"
    )
    decoder_start_token_id: int | None = _default(0, "first token of the decoder", "T5: the pad token")
    num_levels: int = _default(4, "codes of a semantic ID, so tokens to generate", "paper: 4 levels")
    max_history: int = _default(20, "items of a history that are read, the last ones", "authors' code")
    history_dropout_rate: float = _default(
        0.0, "share of a history's items that each training step leaves out at random", "ours; for small data"
    )
    implicit_alignment_weight: float = _default(0.01, "lambda_implicit of eq. 19", "paper")
    alignment_temperature: float = _default(0.1, "tau of eq. 16-17", "paper: 0.1")

    def __post_init__(self, **kwargs):
        super().__post_init__(**_without_remote_code(kwargs))
        if not 0 <= self.history_dropout_rate < 1 or (self.history_dropout_rate and self.num_levels < 2):
            raise ValueError(
                "history_dropout_rate: expected a number in [0, 1), and 0 where num_levels is 1 (an item cannot be "
                f"told from a task token there), got {self.history_dropout_rate} with num_levels {self.num_levels}."
            )
        if self.attention_dropout_rate is not None and not 0 <= self.attention_dropout_rate < 1:
            raise ValueError(
                f"attention_dropout_rate: expected a number in [0, 1) or None, got {self.attention_dropout_rate}."
            )
        if not self.alignment_temperature > 0:
            raise ValueError(f"alignment_temperature: expected a number above 0, got {self.alignment_temperature}.")
        if self.implicit_alignment_weight < 0:
            raise ValueError(
                f"implicit_alignment_weight: expected a number of at least 0, got {self.implicit_alignment_weight}."
            )
