"""Several processes in one folder, and processes that are killed: nothing saved is lost, nothing half-written is seen."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from monailabel.datastore.local import LocalDatastore

from monailabel_app.lib.datastores.local import StudiesFolder
from sam_lora.weights import file_digest
from tests.monailabel_app.lib.datastores.conftest import drawn, stored


def test_two_stores_of_one_folder_lose_nothing_of_each_other(folder, store, tmp_path):
    other = StudiesFolder(str(folder))
    store.save_label("a", str(drawn(tmp_path)), "final", {})
    other.update_image_info("b", {"patient": "p"})
    other.save_label("c", str(drawn(tmp_path)), "final", {})
    store.update_image_info("c", {"note": "q"})
    for one in (store, other, StudiesFolder(str(folder))):
        assert sorted(one.get_labeled_images()) == ["a", "c"]
        assert one.get_image_info("b")["patient"] == "p"


def save_ten(folder, drawn_path, number):
    store = StudiesFolder(folder)
    for n in range(10):
        store.save_label("a", drawn_path, f"user{number}_{n}", {})


def test_saves_of_several_processes_are_all_there(folder, tmp_path):
    StudiesFolder(str(folder))
    context = multiprocessing.get_context("fork")  # the others would import everything anew
    workers = [context.Process(target=save_ten, args=(str(folder), str(drawn(tmp_path)), n)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found = StudiesFolder(str(folder)).json()["objects"]["a"]["labels"]
    assert set(found) == {f"user{number}_{n}" for number in range(3) for n in range(10)}


def test_a_broken_file_is_put_aside_and_made_anew(folder, store, tmp_path, caplog):
    store.save_label("a", str(drawn(tmp_path)), "final", {"label_info": [{"name": "spleen", "idx": 1}]})
    path = folder / "datastore_v2.json"
    path.write_text(path.read_text()[:50])
    again = StudiesFolder(str(folder))
    assert "cannot be read" in caplog.text
    assert list(folder.glob("datastore_v2.json.broken-*"))
    assert again.get_labeled_images() == ["a"]
    assert again.get_label_info("a", "final")["label_info"] == [{"name": "spleen", "idx": 1}]


def test_half_written_files_are_neither_images_nor_labels(folder, store, tmp_path):
    store.save_label("a", str(drawn(tmp_path)), "final", {})
    for place in (folder, folder / "labels" / "final"):
        (place / ".b.nii.gz.99999.part").write_bytes(b"half")
    again = StudiesFolder(str(folder))
    assert sorted(again.list_images()) == ["a", "b", "c"]
    assert again.get_labeled_images() == ["a"]
    assert not list(folder.rglob("*.part"))


def test_a_change_that_leaves_time_and_place_of_the_file_as_they_were_is_seen(folder, store):
    store.update_image_info("a", {"round": 1})
    path = folder / "datastore_v2.json"
    was = path.stat()
    path.write_text(path.read_text().replace('"round": 1', '"round": 2'))  # in place: the same inode, the same size
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert store.get_image_info("a")["round"] == 2
    store.update_image_info("b", {"patient": "p"})
    assert StudiesFolder(str(folder)).get_image_info("a")["round"] == 2


def test_a_change_that_could_not_be_written_is_not_believed(folder, store, monkeypatch):
    def full(_, __):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("monailabel_app.lib.datastores.shared_folder.write_json", full)
        with pytest.raises(OSError, match="No space left"):
            store.update_image_info("a", {"patient": "p"})
    assert "patient" not in store.get_image_info("a")


def test_who_reads_while_others_save_finds_everything(folder, store, tmp_path, monkeypatch):
    """MONAI Label's reconciliation empties its list of objects and fills it again: here it takes its time."""
    stock = LocalDatastore._remove_non_existing

    def slow(self):
        held = dict(self._datastore.objects)
        self._datastore.objects.clear()
        time.sleep(0.02)
        self._datastore.objects.update(held)
        return stock(self)

    monkeypatch.setattr(LocalDatastore, "_remove_non_existing", slow)
    label, over, seen = str(drawn(tmp_path)), threading.Event(), set()

    def read():
        while not over.is_set():
            seen.add(tuple(sorted(store.list_images())))

    thread = threading.Thread(target=read)
    thread.start()
    for n in range(5):
        store.save_label("a", label, "final", {"n": n})
    over.set()
    thread.join()
    assert seen == {("a", "b", "c")}


def killed_before(step, work):
    """Do some work in a process that ends without a word before its n-th change on the disk; its exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = step

    def counted(change):
        def changing(*given, **named):
            nonlocal left
            left -= 1
            if left < 0:
                os._exit(9)
            return change(*given, **named)

        return changing

    for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink"), (Path, "mkdir"), (shutil, "copyfile")):
        setattr(owner, name, counted(getattr(owner, name)))
    try:
        work()
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.parametrize("before", [None, ".nii.gz", ".nii"])
def test_a_label_is_whole_whenever_the_process_that_saves_it_dies(folder, store, tmp_path, before):
    """The old label with all that is known about it, or the new one with its own; at every step of a save."""
    new = drawn(tmp_path, 2).rename(tmp_path / "new.nii.gz")
    for step in range(100):
        if before is not None:
            store.save_label("a", str(drawn(tmp_path, 1, before)), "final", {"client_id": "user1"})
        code = killed_before(
            step,
            lambda: StudiesFolder(str(folder)).save_label(
                "a",
                str(new),
                "final",
                {"client_id": "user2", "model": "m"} if before is None else {"client_id": "user2"},
            ),
        )
        again = StudiesFolder(str(folder))
        labels = list((folder / "labels" / "final").iterdir())
        assert len(labels) == (before is not None or "final" in again.json()["objects"]["a"]["labels"])
        if labels:
            value = stored(again, "a")
            info = again.get_label_info("a", "final")
            assert info["client_id"] == f"user{value}"
            assert info["digest"] == file_digest(labels[0], "sha256")
            assert info["made_by"] == ("model" if before is None else "human")
            if value == 2 and before is not None:
                assert again.label_versions("a", "final")[0]["client_id"] == "user1"
        assert not list(folder.rglob("*.part"))
        assert not (folder / ".sam_lora" / "saving.json").exists()
        if code == 0:
            break
        assert code == 9
        if labels:
            again.remove_label("a", "final")
        assert list((folder / "labels" / "final").iterdir()) == []
    assert step > 10
    assert stored(store, "a") == 2


SAVING = """
import sys
from monailabel_app.lib.datastores.local import StudiesFolder
store = StudiesFolder(sys.argv[1])
for n in range(int(sys.argv[3]), 10**6):
    store.save_label("a", sys.argv[2], f"t{n}", {"n": n})
    print(n, flush=True)
"""


@pytest.mark.accept
def test_every_acknowledged_label_survives_kill_9(folder, tmp_path):
    path, acknowledged = drawn(tmp_path), -1
    for round_ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVING, folder, path, str(acknowledged + 1)], stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
        for _ in range(3 + round_):
            acknowledged = int(process.stdout.readline())
        time.sleep(0.013 * round_)
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split()
        acknowledged = int(rest[-1]) if rest else acknowledged
        process.wait()
        store = StudiesFolder(str(folder))
        for n in range(acknowledged + 1):
            assert stored(store, "a", f"t{n}") == 1
            assert store.get_label_info("a", f"t{n}")["n"] == n
        assert not list(folder.rglob("*.part"))
