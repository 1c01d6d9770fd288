"""The adapters of a site: which one serves, what each came from, and the way back.

A folder holds them: ``NAME.safetensors`` and beside it ``NAME.json``, its pedigree, both written once and never
changed; ``champion.json`` says which one serves. Every file is written aside and renamed, the pedigree before its
adapter and the adapter before the pointer to it: whenever a process dies, what is there can be served.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock

from sam_lora.adapter import AdapterError, read_adapter
from sam_lora.files import clear_leftovers, write_aside, write_json
from sam_lora.weights import file_digest

ENDING = ".safetensors"
BASE = "none"  # the base without an adapter: what serves before there is a champion
CHAMPION = "champion"  # what may be asked for instead of a name; its pedigree would lie where the pointer does
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


class RegistryError(ValueError):
    """There is no such adapter, or it cannot be had; the sentence says why."""


class Registry:
    """A folder of adapters, safe to be used by several processes at once.

    The champion is the last of a line: promoting appends to it, rolling back takes its last one away. Adapters that
    are not in the line are challengers that were not promoted, or were put here by hand.

    Args:
        folder: of the adapters; made when something is added.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._pointer = self.folder / f"{CHAMPION}.json"

    def names(self) -> list[str]:
        """Of all adapters, the newest first."""
        found = {path: _age(path) for path in self.folder.glob(f"*{ENDING}")}
        names = [path.name.removesuffix(ENDING) for path in sorted(found, key=found.__getitem__, reverse=True)]
        return [name for name in names if _may_be_called(name)]

    def path(self, name: str) -> Path:
        """The file of an adapter; RegistryError if there is none of this name."""
        path = self.folder / f"{name}{ENDING}"
        if not _may_be_called(name) or not path.is_file():
            known = ", ".join(self.names()) or "there is none yet"
            raise RegistryError(f"{self.folder} has no adapter {name!r}; its adapters: {known}.")
        return path

    def named(self, asked: str) -> str:
        """The name of an adapter that is asked for by its name or by its digest, "sha256:hex".

        Raises:
            RegistryError: if there is none.
        """
        if not asked.startswith("sha256:"):
            return self.path(asked).name.removesuffix(ENDING)
        for name in self.names():
            if self._said(name) == asked or file_digest(self.path(name), "sha256") == asked:
                return name
        raise RegistryError(f"{self.folder} has no adapter with the digest {asked}.")

    def _said(self, name: str) -> str | None:
        """The digest that an adapter's pedigree names; None where it has none, or one that cannot be read."""
        try:
            return self.pedigree(name).get("digest")
        except RegistryError:
            return None

    def champion(self) -> str:
        """Name of the adapter that serves: the last of the line whose file is what was promoted; "none" without one."""
        return next((one["name"] for one in reversed(self.line()) if self._is_whole(one)), BASE)

    def _is_whole(self, entry: Mapping[str, Any]) -> bool:
        try:
            return file_digest(self.folder / f"{entry['name']}{ENDING}", "sha256") == entry["digest"]
        except FileNotFoundError:
            return False

    def line(self) -> list[dict[str, Any]]:
        """The champions, the first one first, each ``{"name", "digest", "since", "why"}``."""
        return list(self._state()["line"])

    def events(self) -> list[dict[str, Any]]:
        """All that was promoted, rolled back and pruned, in order."""
        return list(self._state()["events"])

    def pedigree(self, name: str) -> dict[str, Any]:
        """What an adapter came from; empty for one that was put here by hand. That of a removed one is still there.

        Raises:
            RegistryError: if its file was altered.
        """
        path = self.folder / f"{name}.json"
        if not path.is_file():
            return {}
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise RegistryError(f"{path} cannot be read as a pedigree: {error}.") from error

    def known(self) -> list[str]:
        """Names of all that have a pedigree, removed ones too, in the order of the alphabet."""
        return sorted(path.stem for path in self.folder.glob("*.json") if path != self._pointer)

    def add(self, source: Path, name: str, pedigree: Mapping[str, Any]) -> str:
        """Take an adapter in. It does not serve before it is promoted.

        Args:
            source: its file, which stays where it is.
            name: letters, digits, ``_ . -``; a new one.
            pedigree: what it came from; its digest is added.

        Returns:
            The digest of its file.

        Raises:
            RegistryError: if the name cannot be used, or is taken.
            AdapterError: if the file is no adapter, or was altered.
        """
        digest = read_adapter(source).digest
        if not _may_be_called(name):
            raise RegistryError(
                f"name must be letters, digits, '_', '.' and '-', starting with one of the first two, and neither "
                f"{BASE!r} nor {CHAMPION!r}; got {name!r}."
            )
        with self._locked():
            if name in self.names() or (self.folder / f"{name}.json").exists():  # removed ones keep their pedigree
                raise RegistryError(f"{self.folder} has or had an adapter {name!r}: give the new one another name.")
            write_json(self.folder / f"{name}.json", {"name": name, **pedigree, "digest": digest})
            with write_aside(self.folder / f"{name}{ENDING}") as temporary:
                temporary.write_bytes(source.read_bytes())
        return digest

    def promote(self, name: str, why: str, over: str | None = None) -> None:
        """Make an adapter the champion.

        Args:
            name: of the adapter.
            why: is kept with it.
            over: the champion that it was compared with; None: whichever serves.

        Raises:
            RegistryError: if there is no such adapter, or another champion than ``over`` serves.
            AdapterError: if its file cannot be read, or was altered.
        """
        with self._locked():
            path = self.path(name)
            if over is not None and over != (serves := self.champion()):
                raise RegistryError(
                    f"{name} was compared with {over}, and {serves} serves now: promoting is up to you."
                )
            digest = file_digest(path, "sha256")
            if digest != self.pedigree(name).get("digest"):  # else its seal was checked when it was added
                digest = read_adapter(path).digest
            entry = {"name": name, "digest": digest, "since": _now(), "why": why}
            state = self._state()
            line = [one for one in state["line"] if one["name"] != name]
            self._write([*line, entry], [*state["events"], {"did": "promoted", **entry}])

    def rollback(self, why: str = "by hand") -> str:
        """Let the champion before this one serve again; "none" where there was none.

        Returns:
            Name of what serves now.

        Raises:
            RegistryError: if there is no champion.
        """
        with self._locked():
            state = self._state()
            if not state["line"]:
                raise RegistryError(f"{self.folder} has no champion: there is nothing to roll back.")
            event = {"did": "rolled back", "name": state["line"][-1]["name"], "since": _now(), "why": why}
            self._write(state["line"][:-1], [*state["events"], event])
            return self.champion()

    def prune(self, keep: int = 5) -> list[str]:
        """Remove the oldest adapters; pedigrees stay, because they tell who was trained on.

        Args:
            keep: how many of the newest adapters stay, beside the champion and the one before it.

        Returns:
            Names of those that were removed.

        Raises:
            RegistryError: if ``keep`` is negative.
        """
        if type(keep) is not int or keep < 0:
            raise RegistryError(f"keep must be a whole number of at least 0, got {keep!r}.")
        with self._locked():
            state, names = self._state(), self.names()
            kept = {*names[:keep], *(one["name"] for one in state["line"][-2:]), self.champion()}
            gone = [name for name in names if name not in kept]
            if gone:
                event = {"did": "pruned", "names": gone, "since": _now(), "why": f"keep {keep}"}
                self._write([one for one in state["line"] if one["name"] in kept], [*state["events"], event])
            for name in gone:
                self.path(name).unlink()
        return gone

    def verify(self) -> list[str]:
        """What is wrong, a sentence each; empty where all is well."""
        wrong = []
        line = {one["name"]: one["digest"] for one in self.line()}
        names = self.names()
        wrong += [f"The champion {name} has no file any more." for name in line if name not in names]
        for name in names:
            try:
                read_adapter(self.path(name))
                said = {self.pedigree(name).get("digest"), line.get(name)} - {None}
            except (AdapterError, RegistryError) as error:
                wrong.append(str(error))
                continue
            if said - {file_digest(self.path(name), "sha256")}:
                wrong.append(f"The file of {name} is another one than was added or promoted.")
        return wrong

    def _state(self) -> dict[str, Any]:
        if not self._pointer.is_file():
            return {"line": [], "events": []}
        try:
            return dict(json.loads(self._pointer.read_text(encoding="utf-8")))
        except ValueError as error:
            raise RegistryError(f"{self._pointer} cannot be read: {error}. Restore it from a back-up.") from error

    def _write(self, line: list[dict[str, Any]], events: list[dict[str, Any]]) -> None:
        write_json(self._pointer, {"line": line, "events": events})

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Nobody else writes what is written under this lock: what is left of that was a killed process's."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            for left in self.folder.glob(".*.part"):
                file = left.name[1:].rsplit(".", 2)[0]
                # an adapter without a pedigree is somebody's who writes it here by hand, maybe now
                if file.endswith(".json") or (self.folder / f"{file.removesuffix(ENDING)}.json").exists():
                    clear_leftovers(self.folder, file)
            yield


def _may_be_called(name: str) -> bool:
    return bool(_NAME.fullmatch(name)) and name not in (BASE, CHAMPION)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _age(path: Path) -> tuple[int, str]:
    try:
        return path.stat().st_mtime_ns, path.name
    except OSError:  # gone since the folder was listed
        return 0, path.name
