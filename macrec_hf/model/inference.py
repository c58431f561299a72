"""What it takes to load a model whole and to ask it about many rows: no weight invented, eval mode, padded rows."""

import logging
import re
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np
import torch
from huggingface_hub.utils import are_progress_bars_disabled
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.utils import logging as library

from .checksums import check_beside, check_files
from .files import folder_beside, read_json

P = ParamSpec("P")
Result = TypeVar("Result")
# While transformers loads a model it changes its own classes, for all threads: no weight is tied meanwhile. Two loads
# at once would leave it so.
LOADING = threading.RLock()


@contextmanager
def without_bars() -> Iterator[None]:
    """No bar of transformers inside, which counts the weights of a model that is read or written in no time.

    Who has switched off bars of downloads keeps the others: transformers switches both together.
    """
    if not library.is_progress_bar_enabled() or are_progress_bars_disabled():
        yield
        return
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.enable_progress_bar()


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """No dropout and no gradient inside; afterwards each module is in the mode that it was in, whatever happened."""
    training = [module for module in model.modules() if module.training]
    if training:  # else a walk for nothing: searches of one user are short
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def in_eval_mode(function: Callable[P, Result]) -> Callable[P, Result]:
    """[`eval_mode`] of a function's first argument, a model, while the function runs."""

    @wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> Result:
        with eval_mode(cast(nn.Module, args[0] if args else kwargs["model"])):
            return function(*args, **kwargs)

    return inside


def check_at_least_one(name: str, value: object) -> None:
    """ValueError unless a value is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}.")


def chosen_device(device: str | torch.device) -> torch.device:
    """The device that is meant; "auto": the accelerator if there is one, else the CPU.

    Raises:
        ValueError: no such device, or torch was not built for it.
    """
    if device == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    expected = "device: expected 'auto' or a device that is there, such as 'cpu' or 'cuda'"
    if not isinstance(device, (str, torch.device)):
        raise ValueError(f"{expected}, got {device!r}.")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # torch raises the latter where it was built without the device
        raise ValueError(f"{expected}, got {device!r}: {str(error).splitlines()[0]}") from error


def chosen_dtype(dtype: str | torch.dtype) -> str | torch.dtype:
    """The type of weights that is meant; "auto" stays.

    Raises:
        ValueError: no type of floating-point numbers.
    """
    found = getattr(torch, dtype, None) if isinstance(dtype, str) and dtype != "auto" else dtype
    if found != "auto" and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise ValueError(f"dtype: expected 'auto', or a type such as torch.bfloat16 or 'bfloat16', got {dtype!r}.")
    return found


def pad_rows(rows: Sequence[Sequence[int] | np.ndarray], fill: int = -1) -> tuple[np.ndarray, np.ndarray]:
    """Rows of unequal length as one array, filled at their ends.

    Returns:
        padded: int64, `(num_rows, longest)`.
        inside: bool, the same shape, False where `fill` stands behind a row's end.

    Example:

    ```python
    >>> pad_rows([[3, 5], [7]])[0].tolist()
    [[3, 5], [7, -1]]
    ```
    """
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    inside = np.arange(lengths.max(initial=0)) < lengths[:, None]
    padded = np.full(inside.shape, fill, dtype=np.int64)
    padded[inside] = np.concatenate([np.zeros(0, dtype=np.int64), *rows])
    return padded, inside


def values_at(keys: np.ndarray, wanted: np.ndarray, *columns: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Looks numbers up among ascending ones.

    Args:
        keys: int64, `(num_entries,)`, ascending, none below 0.
        wanted: int, any shape; -1 is nowhere.
        columns: `(num_entries,)` each.

    Returns:
        Whether each number is there, and for each column its value, 0 where it is not; all of the shape of `wanted`.
    """
    if not len(keys):
        return np.zeros(wanted.shape, dtype=bool), [np.zeros(wanted.shape) for _ in columns]
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    known = keys[place] == wanted
    return known, [np.where(known, column[place], 0) for column in columns]


def joined_ranges(starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranges of whole numbers, one after the other: starts 7, 2 and lengths 2, 3 are 7, 8, 2, 3, 4.

    Args:
        starts, lengths: int, `(num_ranges,)`; a length may be 0.

    Returns:
        Which range each number is of (0, 0, 1, 1, 1), and the number; int64, `(lengths.sum(),)`.
    """
    owners = np.repeat(np.arange(len(lengths)), lengths)
    return owners, np.arange(len(owners)) + (starts - (lengths.cumsum() - lengths))[owners]


# Arguments of `from_pretrained` that say where a repository's files lie.
WHERE = ("revision", "subfolder", "token", "cache_dir", "local_files_only", "force_download", "proxies")


def load_weights(
    model_class: Any, load: Callable[..., Any], name_or_path: Any, args: Any, kwargs: Any, own_files: Sequence[str]
) -> Any:
    """What `from_pretrained` returns; no weight is drawn that the files lack.

    Args:
        model_class: of the model.
        load: transformers' `from_pretrained` of that class.
        args, kwargs: of `load`. With `ignore_mismatched_sizes=True` weights of another size are drawn anew, as asked.
        own_files: patterns of the model's files in a model directory, compared with its `checksums.json`.

    Raises:
        ValueError: weights that are missing, that the model has no place for, of another size, NaN or infinite (tied
            weights count as one); files that differ from the checksums.
    """
    kwargs = dict(kwargs)
    with_info = kwargs.pop("output_loading_info", False)
    where = {name: kwargs[name] for name in WHERE if kwargs.get(name) is not None}
    local = name_or_path is not None and Path(name_or_path).is_dir()
    chosen = {"config", "state_dict", "ignore_mismatched_sizes", "gguf_file", "variant"} & set(kwargs)
    if name_or_path is not None and "config" not in chosen and not args:
        folder = folder_beside(name_or_path, ("config.json",), **where)
        if folder is None:
            raise FileNotFoundError(
                f"{name_or_path}: expected config.json beside the weights, found none. Was the folder copied in part? "
                "Copy it again."
            )
        config = _read_config(model_class, folder)
        if not chosen and folder_beside(name_or_path, ("model.safetensors",), **where) is not None:
            _check_heads(model_class, config, folder)
    if local:
        _check_own(name_or_path, own_files, where)
    reports = logging.getLogger("transformers.modeling_utils")  # its report of what does not fit has many lines
    reports.addFilter(_is_error)  # at a level of its own the library would tell of layers that are not sharded
    try:
        with LOADING, without_bars() if local else nullcontext():  # a download keeps its bar
            model, info = load(name_or_path, *args, **kwargs, output_loading_info=True)
    except torch.OutOfMemoryError:
        raise
    except (SafetensorError, RuntimeError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ValueError(
            f"{name_or_path}: expected a model, but it cannot be loaded: {_one_line(error)} Was one of its files "
            "edited, or cut off while it was copied? Copy the folder again."
        ) from error
    finally:
        reports.removeFilter(_is_error)
    if name_or_path is not None and not local:  # now the files are fetched
        _check_own(name_or_path, own_files, where)
    _refuse(name_or_path, info["missing_keys"], info["unexpected_keys"])
    check_finite_weights(model, str(name_or_path))
    _align(model)
    return (model, info) if with_info else model


def _align(model: Any) -> None:
    """Weights begin where torch's own allocations do. Those of a file may begin anywhere, and products of the same
    numbers then end in other last digits than before they were saved.
    """
    for weight in model.parameters():
        if weight.device.type == "cpu" and weight.data_ptr() % 64:
            weight.data = weight.data.clone()


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def _check_own(name_or_path: Any, own_files: Sequence[str], where: Mapping[str, Any]) -> None:
    """Compares a model's files with the checksums of its directory, in a folder of which it may stand."""
    part = str(Path(own_files[0]).parent)
    if part == ".":
        check_beside(name_or_path, own_files, **where)
    elif Path(name_or_path).is_dir():
        folder = (Path(name_or_path) / where.get("subfolder", "")).absolute()
        if folder.name == part:
            check_files(folder.parent, own_files, whole=False)
    elif where.get("subfolder") == part:
        check_beside(name_or_path, own_files, **{name: value for name, value in where.items() if name != "subfolder"})


def _read_config(model_class: Any, folder: Path) -> Any:
    """The configuration of a model; ValueError of one line that names the file where it cannot be one."""
    path = folder / "config.json"
    read_json(path, dict, "a model's configuration")
    try:
        return model_class.config_class.from_pretrained(folder)
    except Exception as error:  # transformers raises of many kinds, some of many lines
        raise ValueError(f"{path}: {_one_line(error)} Was the file edited or damaged? Copy it again.") from error


def _one_line(error: Exception) -> str:
    said = " ".join(str(error).split())[:400].rstrip(".") + "."
    return said if isinstance(error, ValueError) else f"{type(error).__name__}: {said}"


def _check_heads(model_class: Any, config: Any, folder: Path) -> None:
    """Compares names and shapes of the weights with those that the configuration asks for, before they are read."""
    found: dict[str, tuple[int, ...]] = {}
    path = folder / "model.safetensors"
    try:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  # no dict
                found[name] = tuple(file.get_slice(name).get_shape())
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path}: expected weights, but they cannot be read: {error}. Was the file cut off while it was copied? "
            "Copy it again."
        ) from error
    try:
        with LOADING, torch.device("meta"):  # no memory
            model = model_class(config)
    except Exception as error:  # such as an activation that there is none of
        raise ValueError(
            f"{folder / 'config.json'}: expected the configuration of a model, but none can be made of it: "
            f"{_one_line(error)} Was the file edited or damaged? Copy it again."
        ) from error
    expected = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    tied: dict[str, str] = dict(getattr(model, "all_tied_weights_keys", None) or {})
    held = set(found) | {tied[name] for name in found if name in tied}
    missing = [name for name in expected if name not in held and tied.get(name) not in held]
    ignored = [re.compile(text) for text in model_class._keys_to_ignore_on_load_unexpected or ()]
    others = [name for name in found if name not in expected and not any(text.search(name) for text in ignored)]
    _refuse(folder, missing, others)
    differing = sorted(name for name, shape in found.items() if expected.get(name, shape) != shape)
    if differing:
        name = differing[0]
        raise ValueError(
            f"Expected weights of the sizes that {_config_of(folder)} names, got others: {name} has the shape "
            f"{found[name]} instead of {expected[name]}{_and_more(differing)}. Was one of the two files edited or "
            "copied alone? Copy both from one model."
        )


def _refuse(name_or_path: Any, missing: Collection[str], others: Collection[str]) -> None:
    config = _config_of(name_or_path)
    remedy = "Was one of the two files edited or copied alone? Copy both from one model."
    if missing:
        raise ValueError(
            f"Expected all weights that {config} names, but the file of weights lacks {min(missing)}"
            f"{_and_more(missing)}. {remedy}"
        )
    if others:
        raise ValueError(
            f"Expected no other weights than {config} names, but the file of weights has {min(others)} too"
            f"{_and_more(others)}. {remedy}"
        )


def check_finite_weights(model: nn.Module, where: str) -> None:
    """Raises ValueError where a weight is NaN or infinite.

    Args:
        where: of the model, the beginning of the error.
    """
    for name, weight in model.state_dict().items():
        if not weight.is_floating_point() or weight.is_meta:
            continue
        if not torch.isfinite(weight.sum(dtype=torch.float32)) and not torch.isfinite(weight).all():
            raise ValueError(
                f"{where}: expected finite weights, got NaN or infinity in {name}. Did the training diverge, or was "
                "the file damaged? Take an earlier model, or copy it again."
            )


def _config_of(name_or_path: Any) -> str:
    return str(Path(name_or_path) / "config.json") if name_or_path is not None else "the configuration"


def _and_more(names: Collection[Any]) -> str:
    return f" and {len(names) - 1:,} more" if len(names) > 1 else ""
