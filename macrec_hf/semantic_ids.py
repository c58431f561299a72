"""Semantic IDs as data: which item has which codes, how codes are written as tokens, and how both are kept on disk.

An item's semantic ID is one tuple of `num_levels` codes per modality (paper section 3.1). As text, the first modality
writes `<a_3><b_77><c_1><d_9>`, the second `<A_3><B_77><C_1><D_9>` (both as in the paper), and every further one
carries its name: `<audio_a_3><audio_b_77>...`. The order of the modalities therefore decides the tokens, and is kept
wherever a table is kept.
"""

import hashlib
import json
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from .hub_folder import hub_folder

logger = logging.get_logger(__name__)

TENSORS_NAME = "semantic_ids.safetensors"
ITEMS_NAME = "semantic_ids.json"
FORMAT_VERSION = 1
DEFAULT_CODEBOOK_SIZE = 256  # paper section 4.1, implementation details
Codes = torch.Tensor | np.ndarray | Sequence[Sequence[int]]  # integers, (num_items, num_levels)


def token_name(modality_index: int, modality: str, level: int, code: int) -> str:
    """The token of one code, e.g. `<a_3>`, `<A_3>` or `<audio_a_3>` for modality 0, 1, or a later one named audio."""
    return f"{_token_head(modality_index, modality, level)}{code}>"


def code_tokens(modalities: Iterable[str], num_levels: int, codebook_size: int) -> list[str]:
    """Every code token, in the tokenizer's order: by modality, then level, then code.

    Args:
        modalities: names in the order that decides the tokens (the first is lower case, the second upper case).
        num_levels: codes per ID, at most 26 (a letter each).
        codebook_size: codes per level.

    Returns:
        `len(modalities) * num_levels * codebook_size` distinct strings.
    """
    names = check_modalities(modalities)
    heads = [_token_head(m, name, level) for m, name in enumerate(names) for level in range(num_levels)]
    return [f"{head}{code}>" for head in heads for code in range(codebook_size)]


def check_modalities(modalities: Iterable[str]) -> tuple[str, ...]:
    """The names as a tuple; raises ValueError unless they are distinct and can stand inside a token."""
    names = tuple(modalities)
    if not names:
        raise ValueError("Expected at least one modality, got none.")
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"[^\s<>]+", name):
            raise ValueError(
                f"Expected a modality name without spaces or angle brackets, got {name!r}: the name becomes part of "
                "tokens such as <audio_a_3>. Rename the modality."
            )
    if len(set(names)) < len(names):
        raise ValueError(f"Expected distinct modality names, got {list(names)}.")
    return names


def code_keys(codes: torch.Tensor, codebook_size: int) -> torch.Tensor:
    """One integer per row, equal exactly where the rows of codes are equal.

    Args:
        codes: long, (num_rows, num_levels), every code in [0, codebook_size).

    Returns:
        long, (num_rows,); comparable only with keys of the same call.
    """
    keys = torch.zeros(len(codes), dtype=torch.long)
    compact = codebook_size ** codes.shape[1] >= 2**62  # then the plain number would overflow: rank at each level
    for level in codes.unbind(1):
        keys = keys * codebook_size + level
        if compact:
            keys = torch.unique(keys, return_inverse=True)[1]
    return keys


class SemanticIdTable:
    """The catalogue: items and, for each modality, their codes.

    Args:
        item_ids: the items, distinct; integers are kept as their decimal strings.
        codes: for each modality, in the order that decides the tokens, integers of shape (num_items, num_levels). A
            row of -1 says that the item has no ID in that modality. Several items may share an ID.
        codebook_size: codes per level; every code is below it. Default 256 (paper section 4.1).

    Attributes:
        report: what `build_semantic_ids` and `add_items` found, per modality; empty for any other table. Saved with
            the table, but no part of what makes two tables equal.

    Raises:
        ValueError: item ids repeat; shapes differ between modalities or from the items; a code is out of range.

    Example:
        >>> table = SemanticIdTable(["i1", "i2"], {"text": [[3, 0], [3, 1]], "image": [[5, 2], [-1, -1]]})
        >>> table.tokens("i1", "image"), table.items((3, 1), "text")
        (['<A_5>', '<B_2>'], ['i2'])
    """

    def __init__(self, item_ids: Sequence[str], codes: Mapping[str, Codes], codebook_size: int = 256):
        self.item_ids = check_item_ids(item_ids)
        self.modalities = check_modalities(codes)
        self.codebook_size = int(codebook_size)
        self.codes = {m: _check_codes(codes[m], m, len(self.item_ids), self.codebook_size) for m in self.modalities}
        widths = {m: c.shape[1] for m, c in self.codes.items()}
        if len(set(widths.values())) > 1:
            raise ValueError(f"Expected as many levels in each modality, got {widths}: every ID has the same length.")
        self.num_levels = widths[self.modalities[0]]
        self.report: dict[str, dict] = {}
        self._row_of: dict[str, int] | None = None
        self._rows_of_code: dict[str, dict[tuple[int, ...], list[int]]] = {}

    @property
    def num_items(self) -> int:
        return len(self.item_ids)

    @property
    def row_of(self) -> dict[str, int]:
        """Item id to row, built on first use."""
        if self._row_of is None:
            self._row_of = {item: row for row, item in enumerate(self.item_ids)}
        return self._row_of

    def collision_rate(self, modality: str) -> float:
        """1 - distinct IDs / items that have an ID, in [0, 1) (paper table 4); 0.0 if no item has one."""
        codes = self._codes_of(modality)
        codes = codes[codes[:, 0] >= 0]
        if not len(codes):
            return 0.0
        return 1.0 - len(torch.unique(code_keys(codes, self.codebook_size))) / len(codes)

    def tokens(self, item_id: str, modality: str) -> list[str]:
        """The item's ID as `num_levels` tokens; an empty list where it has none. ValueError if the item is unknown."""
        codes = self._codes_of(modality)
        if item_id not in self.row_of:
            raise ValueError(f"Unknown item {item_id!r}: it is not among the {self.num_items} items of this table.")
        index = self.modalities.index(modality)
        row = codes[self.row_of[item_id]].tolist()
        return [token_name(index, modality, level, code) for level, code in enumerate(row) if code >= 0]

    def items(self, codes: Sequence[int], modality: str) -> list[str]:
        """Every item with exactly these codes, in table order; an empty list if there is none."""
        key = tuple(int(code) for code in codes)
        if len(key) != self.num_levels:
            raise ValueError(f"Expected {self.num_levels} codes, one per level, got {len(key)}: {key}.")
        if modality not in self._rows_of_code:
            index: dict[tuple[int, ...], list[int]] = {}
            for row, code in enumerate(self._codes_of(modality).tolist()):
                if code[0] >= 0:
                    index.setdefault(tuple(code), []).append(row)
            self._rows_of_code[modality] = index
        return [self.item_ids[row] for row in self._rows_of_code[modality].get(key, [])]

    def fingerprint(self) -> str:
        """SHA-256 (hex) of everything that `==` compares; the same on every machine."""
        head = {"modalities": self.modalities, "codebook_size": self.codebook_size, "item_ids": self.item_ids}
        digest = hashlib.sha256(json.dumps(head).encode())
        for modality in self.modalities:
            digest.update(self.codes[modality].numpy().astype("<i8").tobytes())
        return digest.hexdigest()

    @classmethod
    def from_index_json(cls, *, codebook_size: int | None = None, **paths: str | Path) -> "SemanticIdTable":
        """Reads `index.json` files of MQL4GRec and LC-Rec (`{"item": ["<a_170>", "<b_224>"], ...}`), one per modality.

        Args:
            codebook_size: codes per level. Default: 256, or as many as the largest code asks for.
            **paths: `text="X.index_lemb.json", image="X.index_vitemb.json"`: the first must be written in lower-case
                letters, the second in upper case, any further one with its name (`<audio_a_3>`).

        Raises:
            ValueError: a token does not belong to its place, an item stands twice, or the files share no item.
        """
        check_modalities(paths)
        indices = {m: _read_index_json(path, i, m) for i, (m, path) in enumerate(paths.items())}
        item_ids = list(dict.fromkeys(item for index in indices.values() for item in index))
        _warn_of_partial_files(indices, len(item_ids))
        levels = max(len(codes) for index in indices.values() for codes in index.values())
        absent = [-1] * levels
        codes = {m: [index.get(item, absent) for item in item_ids] for m, index in indices.items()}
        needed = 1 + max(max(code) for index in indices.values() for code in index.values())
        return cls(item_ids, codes, codebook_size or max(DEFAULT_CODEBOOK_SIZE, needed))

    def to_index_json(self, modality: str, path: str | Path) -> None:
        """Writes one modality as `index.json` (items in table order, those without an ID left out)."""
        codes = self._codes_of(modality)
        index = self.modalities.index(modality)
        heads = [_token_head(index, modality, level) for level in range(self.num_levels)]
        tokens = {
            item: [f"{head}{code}>" for head, code in zip(heads, row, strict=True)]
            for item, row in zip(self.item_ids, codes.tolist(), strict=True)
            if row[0] >= 0
        }
        # Four spaces and no final newline: byte for byte what the authors' own scripts write.
        Path(path).write_text(json.dumps(tokens, indent=4), encoding="utf-8")

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Writes `semantic_ids.safetensors` (a tensor per modality) and `semantic_ids.json` (items, order, size)."""
        directory = Path(save_directory)
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {m: self.codes[m].to(torch.int32).contiguous() for m in self.modalities}
        # Beside and moved into place, the items last: without them the directory is incomplete, not wrong.
        tensors_beside, items_beside = (directory / f".partial-{name}" for name in (TENSORS_NAME, ITEMS_NAME))
        save_file(tensors, tensors_beside, metadata={"format": "pt"})
        head = {
            "format_version": FORMAT_VERSION,
            "modalities": list(self.modalities),
            "codebook_size": self.codebook_size,
            "item_ids": self.item_ids,
            "report": self.report,
        }
        items_beside.write_text(json.dumps(head, ensure_ascii=False) + "\n", encoding="utf-8")
        (directory / ITEMS_NAME).unlink(missing_ok=True)
        tensors_beside.replace(directory / TENSORS_NAME)
        items_beside.replace(directory / ITEMS_NAME)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | PathLike[str], *, subfolder: str = "", **hub_kwargs: Any
    ) -> "SemanticIdTable":
        """Reads what `save_pretrained` wrote, from a directory or a repository of the Hub.

        Args:
            name_or_path: a directory, or a repository id such as `user/macrec-shop`.
            subfolder: where the files are inside it.
            **hub_kwargs: `revision`, `token`, `cache_dir`, `local_files_only`, ... for `snapshot_download`.

        Raises:
            FileNotFoundError: a directory without the two files.
            OSError: neither a directory nor a repository that can be reached.
            ValueError: the two files do not belong together, or a newer release wrote them.
        """
        items_path, tensors_path = _find_files(name_or_path, subfolder, hub_kwargs)
        try:
            head, tensors = json.loads(items_path.read_text(encoding="utf-8")), load_file(tensors_path)
        except (ValueError, SafetensorError) as error:
            raise ValueError(
                f"Expected {items_path} and {TENSORS_NAME} to hold a saved SemanticIdTable, but they cannot be read: "
                f"{error}. Were they cut off while they were copied? Copy them again."
            ) from error
        if head.get("format_version") != FORMAT_VERSION:
            raise ValueError(
                f"Expected format_version {FORMAT_VERSION} in {items_path}, got {head.get('format_version')!r}: "
                "another release of macrec_hf wrote it. Upgrade macrec_hf, or write the table again with this one."
            )
        if set(tensors) != set(head["modalities"]):
            raise ValueError(
                f"Expected codes for {head['modalities']} in {tensors_path}, got {sorted(tensors)}: the two files are "
                "not from the same table. Copy both from where it was saved."
            )
        table = cls(head["item_ids"], {m: tensors[m] for m in head["modalities"]}, head["codebook_size"])
        table.report = head.get("report", {})
        return table

    def _codes_of(self, modality: str) -> torch.Tensor:
        if modality not in self.codes:
            raise ValueError(f"Unknown modality {modality!r}: this table has {list(self.modalities)}.")
        return self.codes[modality]

    def __len__(self) -> int:
        return self.num_items

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SemanticIdTable):
            return NotImplemented
        return (
            (self.modalities, self.codebook_size) == (other.modalities, other.codebook_size)
            and self.item_ids == other.item_ids
            and all(torch.equal(self.codes[m], other.codes[m]) for m in self.modalities)
        )

    def __repr__(self) -> str:
        return (
            f"SemanticIdTable(num_items={self.num_items}, modalities={list(self.modalities)}, "
            f"num_levels={self.num_levels}, codebook_size={self.codebook_size})"
        )


def _token_head(modality_index: int, modality: str, level: int) -> str:
    """What stands before the number: `<a_`, `<A_` or `<audio_a_`."""
    if not 0 <= level < len(string.ascii_lowercase):
        raise ValueError(f"Expected a level below {len(string.ascii_lowercase)} (a letter each), got {level}.")
    if modality_index == 1:
        return f"<{string.ascii_uppercase[level]}_"
    return f"<{modality + '_' if modality_index else ''}{string.ascii_lowercase[level]}_"


def check_item_ids(item_ids: Sequence[str]) -> list[str]:
    """The ids as plain strings; raises ValueError for anything else than strings and integers, and for repeats."""
    ids = [str(item) if isinstance(item, (str, Integral)) else item for item in item_ids]
    wrong = [item for item in ids if not isinstance(item, str)]
    if wrong:
        raise ValueError(f"Expected item ids to be strings, got {wrong[0]!r}. Is there a gap in the item column?")
    if len(set(ids)) < len(ids):
        first = {item: row for row, item in reversed(list(enumerate(ids)))}
        repeated = [item for row, item in enumerate(ids) if first[item] != row]
        raise ValueError(
            f"Expected distinct item ids, got {len(repeated)} repeated, e.g. {repeated[:3]}. Drop the repeated rows."
        )
    return ids


def _check_codes(codes: Codes, modality: str, num_items: int, codebook_size: int) -> torch.Tensor:
    """The codes as a long tensor on the CPU; raises ValueError for a wrong shape or a code out of range."""
    tensor = torch.as_tensor(np.asarray(codes) if isinstance(codes, list) else codes).detach().cpu()
    if tensor.is_floating_point() or tensor.dtype == torch.bool:
        raise ValueError(f"Expected integer codes for {modality!r}, got {tensor.dtype}.")
    if tensor.dim() != 2 or len(tensor) != num_items or tensor.shape[1] == 0:
        raise ValueError(
            f"Expected codes of shape ({num_items}, num_levels) for {modality!r}, one row per item, got "
            f"{tuple(tensor.shape)}."
        )
    tensor = tensor.to(torch.long).contiguous()
    _token_head(0, modality, tensor.shape[1] - 1)
    absent = (tensor == -1).all(1)
    bad = (((tensor < 0) | (tensor >= codebook_size)).any(1) & ~absent).nonzero()
    if len(bad):
        row = int(bad[0])
        raise ValueError(
            f"Expected codes of {modality!r} in [0, {codebook_size}), or a whole row of -1 for no ID, got "
            f"{tensor[row].tolist()} in row {row}. Is codebook_size the quantizer's?"
        )
    return tensor


def _read_index_json(path: str | Path, modality_index: int, modality: str) -> dict[str, list[int]]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"Expected an index.json of modality {modality!r} at {path}, found none.")
    try:
        pairs = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=tuple)
    except json.JSONDecodeError as error:
        raise ValueError(f"Expected {path} to be an index.json, but it is no JSON: {error}.") from error
    if not isinstance(pairs, tuple) or not pairs or not all(isinstance(tokens, list) for _, tokens in pairs):
        raise ValueError(f'Expected {path} to hold an object {{"item": ["<a_1>", ...], ...}} with at least one item.')
    num_levels = len(pairs[0][1])
    heads = [re.escape(_token_head(modality_index, modality, level)) for level in range(num_levels)]
    pattern = re.compile("".join(rf"{head}(0|[1-9][0-9]*)>\n" for head in heads))
    index: dict[str, list[int]] = {}
    for item, tokens in pairs:
        match = pattern.fullmatch("".join(f"{token}\n" for token in tokens)) if num_levels else None
        if match is None:
            example = [token_name(modality_index, modality, level, 3) for level in range(max(num_levels, 1))]
            raise ValueError(
                f"Expected tokens like {example} for every item of modality {modality!r} (number "
                f"{modality_index + 1}), got {tokens} for item {item!r} in {path}. The first modality is written in "
                "lower case, the second in upper case, further ones with their name, levels in alphabetical order: "
                "name the files in the order of their tokens."
            )
        if item in index:
            raise ValueError(f"Expected every item once, got {item!r} twice in {path}.")
        index[item] = [int(code) for code in match.groups()]
    return index


def _warn_of_partial_files(indices: dict[str, dict[str, list[int]]], num_items: int) -> None:
    """A file that lacks items is fine (they have no ID in that modality); files without a common item are not."""
    if len(indices) > 1 and not set.intersection(*(set(index) for index in indices.values())):
        raise ValueError(f"The files of {list(indices)} have no item in common: are they of the same data set?")
    for modality, index in indices.items():
        if len(index) < num_items:
            logger.warning(f"{num_items - len(index)} of {num_items} items have no ID in modality {modality!r}.")


def _find_files(name_or_path: str | PathLike[str], subfolder: str, hub_kwargs: dict) -> list[Path]:
    """The paths of the two files of a saved table."""
    wanted, names = f"a directory or a repository of the Hub with {ITEMS_NAME}", (ITEMS_NAME, TENSORS_NAME)
    patterns = [f"{subfolder}/{name}" if subfolder else name for name in names]
    folder = hub_folder(name_or_path, patterns, wanted, **hub_kwargs)
    for path in (folder / subfolder / name for name in names):
        if not path.is_file() and folder == Path(name_or_path):
            raise FileNotFoundError(
                f"Expected {path.name} in {path.parent}, found none: is this the directory of a saved SemanticIdTable?"
            )
        if not path.is_file():
            raise OSError(f"Expected {str(name_or_path)!r} to be {wanted}; the repository has no {path.name}.")
    return [folder / subfolder / name for name in names]
