"""Killed at any moment, data preparation leaves whole files or none, and the next run ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time

import nibabel
import numpy as np
import pytest
from PIL import Image

from sam_lora.cases import read_array
from tests.conftest import REPOSITORY, phantom

pytestmark = pytest.mark.accept


@pytest.fixture
def start(tmp_path):
    """Start `data.py` in tmp_path, in a process group of its own."""
    started = []

    def begin(*words):
        command = [sys.executable, str(REPOSITORY / "scripts" / "data.py"), *map(str, words)]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "bundle"), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   start_new_session=True)  # fmt: skip
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def kill_when(process, has_come, delay):
    """Kill a process and its workers, ``delay`` seconds after something has come; False if it was done before."""
    while not has_come():
        if process.poll() is not None:
            return False
        time.sleep(0.002)
    time.sleep(delay)
    if process.poll() is not None:
        return False
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return True


def finish(process):
    out = process.communicate(timeout=600)[0].decode("utf-8", "replace")
    assert process.returncode == 0, out


def visible(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))


def contents(folder):
    """Every array of every npz, read whole, and the datalist: fails if one is half-written."""
    found = {}
    for path in visible(folder):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".npz":
            with np.load(path) as file:
                found[name] = {key: file[key].tolist() for key in file}
        else:
            found[name] = json.loads(path.read_text())
    return found


def write_volumes(folder, count):
    for n in range(count):
        image, label = phantom((12, 96, 96), seed=n)
        for kind, array in (("i", image.astype(np.int16)), ("l", label)):
            (folder / kind).mkdir(exist_ok=True)
            nifti = nibabel.Nifti1Image(np.moveaxis(array, (0, 1, 2), (2, 1, 0)), np.eye(4))
            nibabel.save(nifti, folder / kind / f"c{n:02d}.nii.gz")


def test_volumes(tmp_path, start, data):
    write_volumes(tmp_path, 32)
    assert data("ct_mr", "i", "l", "whole")[0] == 0
    out, moments = tmp_path / "out", np.random.RandomState(0)
    command = ("ct_mr", "i", "l", "out", "--processes", 2)
    kills = 0
    for enough in (0, 1, 6, 12, 18, 25):
        wait_for = lambda n=enough: out.is_dir() and len(list(out.glob("c*.npz"))) >= n  # noqa: E731
        kills += kill_when(start(*command), wait_for, moments.rand() * 0.1)
        assert set(contents(out)) <= {*(f"c{n:02d}.npz" for n in range(32)), "datalist.json"}
    assert kills >= 5
    finish(start(*command))
    assert contents(out) == contents(tmp_path / "whole")
    assert not [p for p in out.iterdir() if p.name.startswith(".")]


def test_workers_end_with_the_process_that_started_them(tmp_path, start):
    write_volumes(tmp_path, 32)
    process = start("ct_mr", "i", "l", "out", "--processes", 2)
    while not list((tmp_path / "out").glob("c*.npz")):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)  # this one only
    process.wait()
    for _ in range(100):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("workers still live 10 seconds later")


def test_pictures(tmp_path, start, data):
    for n in range(40):
        image, label = phantom((1, 300, 300), seed=n)
        for kind, array in (("i", image), ("l", label)):
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.fromarray(array[0]).save(tmp_path / kind / f"p{n:02d}.png")
    assert data("images", "i", "l", "whole")[0] == 0
    out, command = tmp_path / "out", ("images", "i", "l", "out", "--processes", 2)
    assert kill_when(start(*command), lambda: len(list(out.glob("*.npz"))) > 3, 0.01)
    assert set(contents(out)) < set(contents(tmp_path / "whole"))
    finish(start(*command))
    assert contents(out) == contents(tmp_path / "whole")
    assert not [p for p in out.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("target", ["b.nii.gz", "b.nrrd"])
def test_conversion(tmp_path, start, target):
    noise = np.random.RandomState(0).randint(0, 1000, (400, 400, 150)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(noise, np.eye(4)), tmp_path / "a.nii")
    hidden = lambda: [p for p in tmp_path.iterdir() if p.name.startswith(".") and "b." in p.name]  # noqa: E731
    assert kill_when(start("convert", "a.nii", target), hidden, 0)
    assert "a.nii" in {p.name for p in visible(tmp_path)} <= {"a.nii", target}
    if (tmp_path / target).exists():  # renamed before the kill came: then it is whole
        assert np.array_equal(read_array(tmp_path / target, "imgs")[0], noise)
    finish(start("convert", "a.nii", target, "--overwrite"))
    assert not hidden()
    assert sorted(p.name for p in visible(tmp_path)) == ["a.nii", target]


def test_split_with_copies(tmp_path, start, data):
    write_volumes(tmp_path, 30)
    assert data("ct_mr", "i", "l", "out")[0] == 0
    out, whole = tmp_path / "out", contents(tmp_path / "out")
    for kill in (True, False):
        process = start("split", "out/datalist.json", "--copy")
        if kill and not kill_when(process, lambda: len(list((out / "train").glob("*.npz"))) > 4, 0.001):
            assert process.returncode == 0
        elif not kill:
            finish(process)
        now = contents(out)
        assert {name: now[name] for name in whole if name.endswith(".npz")} == {
            name: whole[name] for name in whole if name.endswith(".npz")
        }
    entries = [e for section in ("training", "validation", "test") for e in now["datalist.json"][section]]
    assert len(entries) == 30
    assert all(now[e["image"]] == whole[e["image"].split("/")[-1]] for e in entries)
    assert not [p for p in out.rglob("*") if p.name.startswith(".")]
