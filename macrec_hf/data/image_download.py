"""Photos named by URL → files: in parallel, with retries, and going on where an earlier run stopped."""

import hashlib
import http.client
import logging
import re
import time
import urllib.error
import urllib.parse
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from ..model.files import replacing
from .http_fetch import RefusedError, fetch
from .output_folder import sweep
from .text_files import shortened

logger = logging.getLogger(__name__)

# JPEG, PNG, GIF, BMP, TIFF, JPEG 2000, WebP, AVIF
SIGNATURES = re.compile(
    rb"\xff\xd8\xff|\x89PNG|GIF8|BM|II\*\0|MM\0\*|\0\0\0\x0cjP  |RIFF....WEBP|....ftypavi[fs]", re.DOTALL
)
BATCH = 2_048  # addresses handed to the threads at a time: bounds the memory
HOPELESS_AFTER = 64  # failures in a row without one success: the machine is offline, or the host is gone
PATIENCE = 6  # times the timeout: what one photo may take in all
LONGEST_NAME = 100  # letters of an id in a file's name; most systems allow 255 bytes in all


@dataclass
class DownloadReport:
    """What came of the addresses.

    Attributes:
        files: item id → name of the file in the folder.
        failed: item id → why there is none.
        fetched: how many of the files were fetched in this run; the others were there before.
    """

    files: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    fetched: int = 0


def download_images(
    urls: Mapping[str, str],
    folder: str | Path,
    *,
    workers: int = 16,
    retries: int = 3,
    timeout: float = 20.0,
    backoff: float = 0.5,
    allow_private: bool = False,
) -> DownloadReport:
    """Fetches every item's photo that is not there yet from this address.

    A file appears under its name only when it is complete and begins as a picture does, so an interrupted run is
    resumed by running it again. Where nothing at all can be fetched, the rest is given up after a while. Whatever is
    wrong with one address is that photo's failure.

    Args:
        urls: item id → `http` or `https` address.
        folder: where the files go, made if need be.
        workers: downloads at a time.
        retries: further tries after a time-out, a broken connection, or the answers 408, 429 and 5xx.
        timeout: seconds without an answer; one photo may take six times as long, with all tries.
        backoff: seconds before the first further try, doubled each time.
        allow_private: whether photos may come from this machine and its network.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    report, misses = DownloadReport(), 0
    entries = list(urls.items())
    with ThreadPoolExecutor(workers) as pool, tqdm(total=len(entries), desc="photos", unit=" files") as bar:

        def work(entry: tuple[str, str]) -> tuple[str, str | None, bool]:
            item, url = entry
            if misses >= HOPELESS_AFTER and not report.files:
                return item, "not tried: none of the addresses before it could be fetched", False
            if not isinstance(url, str):
                return item, f"expected an http address, got {shortened(url)}", False
            target = folder / file_name(item, url)
            if target.is_file() and target.stat().st_size:
                return item, None, False
            found = _picture(url, retries, timeout, backoff, allow_private)
            if isinstance(found, str):  # in parts the server's words
                return item, "".join(letter if letter.isprintable() else " " for letter in found[:300]), True
            with replacing(target) as beside:
                beside.write_bytes(found)
            return item, None, True

        try:
            for start in range(0, len(entries), BATCH):
                batch = entries[start : start + BATCH]
                for (_, url), (item, reason, tried) in zip(batch, pool.map(work, batch), strict=True):
                    if reason is None:
                        report.files[item] = file_name(item, url)
                        report.fetched += tried
                    else:
                        report.failed[item] = reason
                        misses += 1
                    bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # those under way end within their deadline
            raise
    if report.failed:
        reason = next(iter(report.failed.values()))
        logger.warning(f"{len(report.failed):,} of {len(entries):,} photos could not be fetched, the first: {reason}.")
    return report


def file_name(item_id: str, url: str) -> str:
    """A file name that belongs to one item and one address alone: the id, escaped, and of both a hash.

    The address's ending is kept. Of a long id only the beginning stands there, and its own hash.
    """
    ending = re.search(r"\.(jpe?g|png|gif|webp|bmp|tiff?|avif)(?=[?#]|$)", url.strip().lower())
    digest = hashlib.sha256(f"{item_id}\n{url}".encode(errors="replace")).hexdigest()[:12]
    return f"{_stem(item_id)}.{digest}{ending[0] if ending else '.jpg'}"


def remove_old_photos(folder: str | Path, items: Iterable[str], kept: Collection[str]) -> None:
    """Removes what `download_images` fetched for items from addresses that they do not name any more.

    Args:
        items: ids; files of others stay.
        kept: names of files that stay.
    """
    stems, kept = {_stem(item) for item in items}, set(kept)
    for path in Path(folder).glob("*.*.*"):
        found = re.fullmatch(r"(.+)\.[0-9a-f]{12}\.[a-z]+", path.name)
        if found and found[1] in stems and path.name not in kept:
            path.unlink()


def _stem(item_id: str) -> str:
    name = urllib.parse.quote(item_id, safe="", errors="replace")
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[: LONGEST_NAME - 33]}~{hashlib.sha256(item_id.encode(errors='replace')).hexdigest()[:32]}"


def _picture(url: str, retries: int, timeout: float, backoff: float, allow_private: bool) -> bytes | str:
    """One photo's content, or why there is none."""
    end = time.monotonic() + PATIENCE * timeout
    for attempt in range(retries + 1):
        try:
            answer = fetch(url, timeout, end - time.monotonic(), allow_private)
            if SIGNATURES.match(answer.content):
                return answer.content
            return f"no picture but {answer.kind}, {len(answer.content):,} bytes"
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code} {error.reason}"
            error.close()
            if error.code not in (408, 429) and error.code < 500:
                return reason
        except (OSError, http.client.HTTPException) as error:  # time-outs, broken connections, half an answer
            reason = f"{type(error).__name__}: {error}"
        except RefusedError as error:
            return str(error)
        except Exception as error:  # an odd address or answer is no other photo's fault
            return f"{type(error).__name__}: {error}"
        pause = backoff * 2**attempt
        if attempt == retries or time.monotonic() + pause >= end:
            break
        time.sleep(pause)
    return reason
