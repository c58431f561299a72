"""The catalogue's embeddings on disk: one `.npy` per modality, read memory-mapped, a batch at a time."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from ..data import text_files
from ..data.learned_purchases import LEARNED_FROM
from ..data.output_folder import output_folder
from ..model.files import read_json, reading
from ..model.semantic_ids import check_item_ids

FORMAT_VERSION = 1
IDS_NAME, META_NAME = "item_ids.json", "meta.json"
FILES = (IDS_NAME, META_NAME, "*.npy", "*_encoder.safetensors")  # of a folder of embeddings
_TOO_LARGE = 1e15  # of which the squares of some thousand add up to less than float32's largest number; ours
Rows = int | slice | Sequence[int] | np.ndarray  # whatever picks rows of an array


class EmbeddingStore:
    """Embeddings of a catalogue, one row per item and modality.

    A map-style dataset: `store[[3, 5]]` reads two rows of each modality.

    Args:
        arrays: `{modality: float array (num_items, embedding_size)}`; memory maps stay on disk.
        item_ids: one string per row. `None` numbers the rows.
        missing: `{modality: ids of the items that have no such embedding}`; their rows are ignored.
        encoders: `{modality: name of the encoder}`, for the record.

    Attributes:
        learned_from: `{modality: which purchases its embeddings were made from}`; empty but for embeddings of
            purchases. Read from `meta.json`.

    Raises:
        ValueError: arrays and ids that disagree in number, a repeated id, not two dimensions, NaN or infinite values.
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray | torch.Tensor],
        item_ids: Sequence[str] | None = None,
        missing: Mapping[str, Iterable[str]] | None = None,
        encoders: Mapping[str, str] | None = None,
    ):
        if not arrays:
            raise ValueError("embeddings: expected at least one modality, got none.")
        self.arrays = {name: _as_array(name, array) for name, array in arrays.items()}
        num_rows = len(next(iter(self.arrays.values())))
        self.item_ids = [str(row) for row in range(num_rows)] if item_ids is None else check_item_ids(item_ids)
        self.encoders = dict(encoders or {})
        self.learned_from: dict[str, dict] = {}
        self._check_rows()
        self.present = {name: np.ones(len(self), dtype=bool) for name in self.arrays}
        self._mark_missing(missing or {})

    def _check_rows(self) -> None:
        if not self.item_ids:
            raise ValueError("embeddings: expected at least one item, got an empty catalogue.")
        for name, array in self.arrays.items():
            if len(array) != len(self.item_ids):
                raise ValueError(
                    f"embeddings[{name!r}]: expected one row for each of the {len(self.item_ids)} item ids, got "
                    f"{len(array)} rows. The ids and the array come from different catalogues: export them together."
                )

    def _mark_missing(self, missing: Mapping[str, Iterable[str]]) -> None:
        row_of = {item: row for row, item in enumerate(self.item_ids)}
        for name, items in missing.items():
            if name not in self.arrays:
                raise ValueError(f"missing: {name!r} is no modality of this store, which has {list(self.arrays)}.")
            unknown = [item for item in items if item not in row_of]
            if unknown:
                raise ValueError(f"missing[{name!r}]: {unknown[:3]} are not among the {len(self)} item ids.")
            self.present[name][[row_of[item] for item in items]] = False

    def check_finite(self, batch_size: int = 8192) -> "EmbeddingStore":
        """Reads all rows of present items; returns itself.

        Raises:
            ValueError: a number that is NaN, infinite, or so large that distances in float32 would be infinite.
        """
        for name, array in self.arrays.items():
            for start in range(0, len(self), batch_size):
                with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite
                    rows = np.asarray(array[start : start + batch_size]).astype(np.float32)
                bad = ~(np.abs(rows) < _TOO_LARGE).all(axis=1) & self.present[name][start : start + batch_size]
                if bad.any():
                    row = start + int(np.flatnonzero(bad)[0])
                    raise ValueError(
                        f"embeddings[{name!r}]: expected numbers below {_TOO_LARGE:g}, got NaN, infinity or larger "
                        f"ones in row {row} (item {self.item_ids[row]!r}). An item without this modality belongs into "
                        "meta.json's list 'missing'; anything else is a fault of the encoder (float16 overflow is a "
                        "common one)."
                    )
        return self

    @property
    def modalities(self) -> dict[str, int]:
        """`{modality: embedding size}` in order."""
        return {name: array.shape[1] for name, array in self.arrays.items()}

    def __len__(self) -> int:
        return len(self.item_ids)

    def __repr__(self) -> str:
        missing = {name: int((~present).sum()) for name, present in self.present.items() if not present.all()}
        absent = f", missing={missing}" if missing else ""
        return f"{type(self).__name__}(num_items={len(self)}, modalities={self.modalities}{absent})"

    def __getitem__(self, rows: Rows) -> dict[str, np.ndarray]:
        """Float32 rows of every modality; a missing row is zeros."""
        return {name: self.rows(name, rows) for name in self.arrays}

    def rows(self, modality: str, rows: Rows) -> np.ndarray:
        """Rows of one modality as float32, zeros where the item has none."""
        values = np.array(self.arrays[modality][rows], dtype=np.float32)
        values[~self.present[modality][rows]] = 0.0
        return values

    def select(self, modalities: list[str]) -> "EmbeddingStore":
        """A store of these modalities only, in this order; nothing is copied."""
        unknown = [name for name in modalities if name not in self.arrays]
        if unknown:
            raise ValueError(f"modalities: expected some of {list(self.arrays)}, got {unknown}.")
        missing = {name: [self.item_ids[row] for row in np.flatnonzero(~self.present[name])] for name in modalities}
        encoders = {name: self.encoders[name] for name in modalities if name in self.encoders}
        arrays = {name: self.arrays[name] for name in modalities}
        return self._keeping(EmbeddingStore(arrays, self.item_ids, missing, encoders))

    def take(self, rows: Sequence[int] | np.ndarray) -> "EmbeddingStore":
        """A store of some of the items, in this order; their rows are copied into memory."""
        ids = [self.item_ids[row] for row in rows]
        missing = {name: [self.item_ids[row] for row in rows if not self.present[name][row]] for name in self.arrays}
        arrays = {name: np.asarray(array[np.asarray(rows)]) for name, array in self.arrays.items()}
        return self._keeping(EmbeddingStore(arrays, ids, missing, self.encoders))

    def _keeping(self, part: "EmbeddingStore") -> "EmbeddingStore":
        """A part of this store, which was made from the same purchases."""
        part.learned_from = {name: about for name, about in self.learned_from.items() if name in part.arrays}
        return part

    def fingerprint(self, every_row: bool = False) -> str:
        """A short hash of ids, shapes and up to 4,096 evenly spaced rows: equal for equal catalogues.

        Args:
            every_row: all rows instead, which takes as long as reading them.
        """
        digest = hashlib.sha256(json.dumps([self.item_ids, list(self.modalities.items())]).encode())
        rows = np.unique(np.linspace(0, len(self) - 1, 4096).astype(np.int64))
        blocks = np.array_split(np.arange(len(self)), 1 + len(self) // 4096) if every_row else [rows]
        for name in self.arrays:
            digest.update(np.packbits(self.present[name]).tobytes())
            for block in blocks:
                digest.update(self.rows(name, block).tobytes())
        return digest.hexdigest()[:16]

    def save(self, directory: str | Path, settings: Mapping[str, dict] | None = None) -> Path:
        """Writes `item_ids.json`, one `<modality>.npy` each and `meta.json` into `directory`, all at once.

        What an earlier catalogue there had besides goes. Other files stay.
        """
        directory = Path(directory)
        with output_folder(directory, last=IDS_NAME, stale=_of_earlier(directory)) as beside:
            self._write(beside, settings)
        return directory

    def _write(self, directory: Path, settings: Mapping[str, dict] | None) -> None:
        for name, array in self.arrays.items():
            with (directory / f"{name}.npy").open("wb") as file:
                np.save(file, array)
        (directory / IDS_NAME).write_text(json.dumps(self.item_ids))
        meta = {
            "format_version": FORMAT_VERSION,
            "modality_order": list(self.arrays),
            "modalities": {
                name: {
                    "encoder": self.encoders.get(name),
                    "dimension": size,
                    "missing": [self.item_ids[row] for row in np.flatnonzero(~self.present[name])],
                    "settings": dict((settings or {}).get(name, {})),
                }
                for name, size in self.modalities.items()
            },
        }
        (directory / META_NAME).write_text(json.dumps(meta, indent=2))

    @classmethod
    def open(cls, directory: str | Path) -> "EmbeddingStore":
        """Opens what `save` or `macrec embed` wrote, memory-mapped.

        Raises:
            FileNotFoundError: a file that is not there. Without `meta.json` nobody knows which items lack a modality.
            ValueError: a file of another shape than `save` writes, and all that the class raises.
        """
        directory = Path(directory)
        with reading(directory, *FILES):
            return cls._open(directory)

    @classmethod
    def _open(cls, directory: Path) -> "EmbeddingStore":
        ids_file, meta_file = directory / IDS_NAME, directory / META_NAME
        for path in (ids_file, meta_file):
            if not path.is_file():
                raise FileNotFoundError(
                    f"{directory}: expected a folder of embeddings with item_ids.json, meta.json and one "
                    f"<modality>.npy each, {f'found no {path.name}' if directory.is_dir() else 'found no such folder'}"
                    ". `macrec embed` writes one; of arrays from elsewhere name the files: "
                    "--embeddings text=a.npy,image=b.npy --item-ids ids.json."
                )
        order, about = read_meta(meta_file)
        try:
            store = cls.from_files({name: directory / f"{name}.npy" for name in order}, ids_file, about)
        except ValueError as error:
            raise error if str(directory) in str(error) else ValueError(f"{directory}: {error}") from error
        for name, size in store.modalities.items():
            if (said := about[name].get("dimension", size)) != size:
                raise ValueError(
                    f"{directory / name}.npy: expected {str(said)[:40]} numbers an item, as {meta_file} says, got "
                    f"{size}. Was one of the files copied from another folder? Embed again, or copy both."
                )
        return store

    @classmethod
    def from_files(
        cls,
        paths: Mapping[str, str | Path],
        item_ids: list[str] | str | Path,
        about: Mapping[str, dict] | None = None,
    ) -> "EmbeddingStore":
        """Opens `{modality: file.npy}` memory-mapped, for embeddings made elsewhere.

        Args:
            item_ids: one string per row, or a JSON file with a list of them.
            about: `{modality: {"missing": [item ids], "encoder": name}}`, as in `meta.json`. Of a file in a folder of
                `macrec embed` the folder says at least which purchases it was made from.

        Raises:
            FileNotFoundError: a file that is not there.
            ValueError: a file that is no `.npy` of numbers or no JSON, one in a folder that a newer release of
                `macrec embed` wrote, and all that the class raises.
        """
        about = about or {}
        ids = _read_ids(Path(item_ids)) if isinstance(item_ids, str | Path) else item_ids
        arrays = {name: _open_array(name, path) for name, path in paths.items()}
        store = cls(
            arrays,
            ids,
            missing={name: entry.get("missing", []) for name, entry in about.items() if name in arrays},
            encoders={name: entry["encoder"] for name, entry in about.items() if entry.get("encoder")},
        )
        said = {name: entry["settings"] for name, entry in about.items() if isinstance(entry.get("settings"), dict)}
        said |= {name: _settings_beside(Path(path)) for name, path in paths.items() if name not in about}
        store.learned_from = {
            name: kept[LEARNED_FROM] for name, kept in said.items() if isinstance(kept.get(LEARNED_FROM), dict)
        }
        return store


def _settings_beside(path: Path) -> dict:
    """What a `meta.json` beside says of the encoder of `name.npy`; nothing where it is not ours.

    Raises:
        ValueError: a newer release wrote it, which may say in another way which purchases it was made from.
    """
    meta_path = path.parent / META_NAME
    try:
        meta = _read_object(meta_path)
    except (OSError, ValueError):
        return {}
    version = meta.get("format_version")
    if type(version) is int and version > FORMAT_VERSION and "modalities" in meta:
        raise _newer(meta_path, version)
    with suppress(ValueError):
        settings = _checked(meta_path, meta)[1].get(path.stem, {}).get("settings")
        return settings if isinstance(settings, dict) else {}
    return {}


def read_meta(path: Path) -> tuple[list[str], dict[str, dict]]:
    """The order of the modalities in a `meta.json`, and what it says about each.

    Raises:
        ValueError: it has another shape than `save` writes.
    """
    return _checked(path, _read_object(path))


def _read_object(path: Path) -> dict:
    return read_json(path, dict, "an object that says which items lack a modality")


def _newer(path: Path, version: object) -> ValueError:
    return ValueError(
        f"{path}: expected format_version up to {FORMAT_VERSION}, got {str(version)[:40]}. The "
        "folder was written by a newer macrec_hf: upgrade the package."
    )


def _checked(path: Path, meta: dict) -> tuple[list[str], dict[str, dict]]:
    version = meta.get("format_version", 1)
    if type(version) is not int or version > FORMAT_VERSION:
        raise _newer(path, version)
    about: dict[str, dict] = meta["modalities"] if isinstance(meta.get("modalities"), dict) else {}
    order = meta.get("modality_order", list(about))
    good = isinstance(order, list) and all(isinstance(name, str) for name in order)
    if not good or not order or sorted(order) != sorted(about) or any(Path(name).name != name for name in order):
        raise ValueError(
            f"{path}: expected modality_order, a list, and an entry for each of its names in modalities, got "
            f"{str(order)[:60]}. Was the file edited? `macrec embed` writes it."
        )
    for name, entry in about.items():
        missing = entry.get("missing", []) if isinstance(entry, dict) else None
        encoder = entry.get("encoder") if isinstance(entry, dict) else None
        if not isinstance(missing, list) or not isinstance(encoder, str | None):
            raise ValueError(
                f"{path}: expected of {name} a list of missing item ids and the encoder's name, got "
                f"{str(entry)[:60]}. Was the file edited? `macrec embed` writes it."
            )
        check_item_ids(missing)
    return order, about


def _read_ids(path: Path) -> list:
    expected = 'a list of item ids, such as ["i1", "i2"]'
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a JSON file with {expected}, found none.")
    ids = text_files.read_json(path)  # whatever encoding; what no file could hold is replaced
    if not isinstance(ids, list):
        raise ValueError(f"{path}: expected {expected}, got {text_files.json_kind(ids)}.")
    return ids


def _open_array(name: str, path: str | Path) -> np.ndarray:
    if not Path(path).is_file():
        raise FileNotFoundError(f"embeddings[{name!r}]: expected a .npy file at {path}, found none.")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # whatever a head is damaged to makes numpy raise another kind
        raise ValueError(
            f"embeddings[{name!r}]: expected {path} to be a .npy file of floating point numbers, but it cannot be "
            f"read as one: {str(error).split('.')[0].splitlines()[0][:120] if str(error) else type(error).__name__}. "
            "Was it cut off? np.save(path, array.astype('float32')) writes one."
        ) from error
    if not isinstance(array, np.memmap):
        raise ValueError(
            f"embeddings[{name!r}]: expected {path} to be a .npy file of one array, got an archive of several. "
            "np.save(path, array.astype('float32')) writes one."
        )
    if array.offset + array.nbytes != Path(path).stat().st_size:
        raise ValueError(
            f"embeddings[{name!r}]: expected {path} to hold as many numbers as its head says, {array.shape} of "
            f"{array.dtype}, got {Path(path).stat().st_size - array.offset:,} bytes of them. Was the file damaged? "
            "Copy it again."
        )
    return array


def _as_array(name: str, values: np.ndarray | torch.Tensor) -> np.ndarray:
    array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asanyarray(values)
    if array.ndim != 2:
        raise ValueError(
            f"embeddings[{name!r}]: expected shape (num_items, embedding_size), got {tuple(array.shape)}."
        )
    if array.shape[1] == 0:
        raise ValueError(f"embeddings[{name!r}]: expected at least one number an item, got shape {array.shape}.")
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise ValueError(f"embeddings[{name!r}]: expected float16, float32 or float64, got {array.dtype}.")
    return array


def _of_earlier(directory: Path) -> list[str]:
    """Patterns of the files of the modalities that a folder's `meta.json` names."""
    try:
        order, _ = read_meta(directory / META_NAME)
    except (OSError, ValueError):
        return []  # none there, or not ours
    return [name for modality in order for name in (f"{modality}.npy", f"{modality}_encoder.safetensors")]
