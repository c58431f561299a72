"""Photos named by URL → files: in parallel, with retries, and going on where an earlier run stopped."""

import http.client
import logging
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from ..model.files import replacing
from .output_folder import sweep

logger = logging.getLogger(__name__)

SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM")  # JPEG, PNG, GIF, WebP, BMP
MAX_BYTES = 50_000_000
BATCH = 2_048  # addresses handed to the threads at a time: bounds the memory
HOPELESS_AFTER = 64  # failures in a row without one success: the machine is offline, or the host is gone


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


class _NoPictureError(Exception):
    """An answer that another try would not change."""


def download_images(
    urls: Mapping[str, str],
    folder: str | Path,
    *,
    workers: int = 16,
    retries: int = 3,
    timeout: float = 20.0,
    backoff: float = 0.5,
) -> DownloadReport:
    """Fetches every item's photo that is not there yet.

    A file appears under its name only when it is complete and begins as a picture does, so an interrupted run is
    resumed by running it again. Where nothing at all can be fetched, the rest is given up after a while.

    Args:
        urls: item id → `http` or `https` address.
        folder: where the files go, made if need be.
        workers: downloads at a time.
        retries: further tries after a time-out, a broken connection, or the answers 408, 429 and 5xx.
        timeout: seconds without an answer.
        backoff: seconds before the first further try, doubled each time.
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
            target = folder / file_name(item, url)
            if target.is_file() and target.stat().st_size:
                return item, None, False
            return item, _fetch(url, target, retries, timeout, backoff), True

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
    if report.failed:
        logger.warning(f"{len(report.failed):,} of {len(entries):,} photos could not be fetched.")
    return report


def file_name(item_id: str, url: str) -> str:
    """A file name that belongs to one item alone: the id, escaped, with the address's ending."""
    ending = re.search(r"\.(jpe?g|png|gif|webp|bmp)$", urllib.parse.urlsplit(url).path.lower())
    return urllib.parse.quote(item_id, safe="") + (ending[0] if ending else ".jpg")


def _fetch(url: str, target: Path, retries: int, timeout: float, backoff: float) -> str | None:
    """Fetches one photo; returns why not, or None."""
    for attempt in range(retries + 1):
        try:
            _save(url, target, timeout)
            return None
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code} {error.reason}"
            error.close()
            if error.code not in (408, 429) and error.code < 500:
                return reason
        except _NoPictureError as error:
            return str(error)
        except (OSError, http.client.HTTPException) as error:  # time-outs, broken connections, half an answer
            reason = f"{type(error).__name__}: {error}"
        except ValueError as error:  # an address that is none
            return f"{type(error).__name__}: {error}"
        if attempt < retries:
            time.sleep(backoff * 2**attempt)
    return reason


def _save(url: str, target: Path, timeout: float) -> None:
    if not url.startswith(("http://", "https://")):
        raise _NoPictureError(f"expected an http address, got {url!r}")
    request = urllib.request.Request(url, headers={"User-Agent": "macrec_hf"})
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        content = answer.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise _NoPictureError(f"larger than {MAX_BYTES:,} bytes")
        if answer.length:  # what is still to come, although the connection is at its end
            raise http.client.IncompleteRead(content, answer.length)
        if not content.startswith(SIGNATURES):
            raise _NoPictureError(f"no picture but {answer.headers.get_content_type()}, {len(content):,} bytes")
    with replacing(target) as beside:
        beside.write_bytes(content)
