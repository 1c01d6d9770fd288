"""Fetching a large file: with a progress bar, continuing where an earlier try stopped."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

_BLOCK = 1 << 20


def download(url: str, partial: Path) -> None:
    """Fetch ``url`` into ``partial``, which keeps what arrived: the next call asks for the rest only.

    Args:
        url: http or https.
        partial: grows until it is whole; whether it is genuine is for the caller to check.

    Raises:
        OSError: if the address does not answer, or the connection ends early.
    """
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310
    try:
        response = urllib.request.urlopen(request, timeout=60)  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is left to send: the file is whole, its hash will tell
            return
        raise
    with response:
        continues = response.status == 206
        have = have if continues else 0
        total = have + int(response.headers.get("Content-Length", 0)) or None
        with (
            partial.open("ab" if continues else "wb") as file,
            tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=partial.stem) as bar,
        ):
            for block in iter(lambda: response.read(_BLOCK), b""):
                file.write(block)
                bar.update(len(block))
        if total is not None and partial.stat().st_size < total:
            raise OSError(f"the connection ended after {partial.stat().st_size} of {total} bytes")
