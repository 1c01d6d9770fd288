"""Shared fixtures: small networks, small cases, real weights, and real data where there is some."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch

from sam_lora.adapter import DEFAULT_INTENSITY, Adapter, write_adapter
from sam_lora.build import build_sam_lora
from sam_lora.cases import read_case
from sam_lora.demo.brain import write_brain_cases
from sam_lora.networks import Sam
from sam_lora.networks.image_encoder import ImageEncoder
from sam_lora.prompts import sample_prompts
from sam_lora.registry import Registry
from sam_lora.weights import find_weights

REPOSITORY = Path(__file__).parents[1]
BUNDLE = REPOSITORY / "bundle"


def pytest_configure(config):
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """With SAM_LORA_NO_SKIPS=1, where everything is known to be there, a skipped test has failed."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("SAM_LORA_NO_SKIPS") == "1" and not hasattr(report, "wasxfail"):
        if "needs a GPU" in str(report.longrepr):
            return  # nobody promised one
        report.outcome, report.longrepr = "failed", f"skipped where nothing may be: {report.longrepr}"


def randomize_zeros(module, seed=0):
    """Draw every zero-initialised parameter from N(0, 0.1): zeros would hide what is never read."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.1, generator=generator)
    return module


@pytest.fixture
def toy_sam():
    """A ViT SAM of 64 px with two blocks, one of them windowed; every parameter random."""
    torch.manual_seed(0)
    encoder = ImageEncoder(
        width=32, depth=2, num_heads=2, global_layers=(1,), native_size=64, patch_size=8, window_size=3
    )
    return randomize_zeros(Sam(encoder, 64, "mean_std")).eval()


@pytest.fixture
def small_lora():
    """The real vit_t at 64 px with LoRA at its start."""
    torch.manual_seed(0)
    return build_sam_lora(image_size=64)


def write_random_adapter(path, strength=0.05, **options):
    """Write an adapter whose LoRA changes the real vit_t at 64 px by so much; returns its network, unmerged."""
    torch.manual_seed(0)
    network = build_sam_lora(image_size=64, **options).eval().requires_grad_(False)
    for name, tensor in network.adapter_tensors().items():
        if "lora_b_" in name:
            tensor.normal_(0, strength)
    write_adapter(path, Adapter(network.spec, network.adapter_tensors()))
    return network


def write_champion(folder, name, **options):
    """Write a random adapter into a registry and promote it; returns its network, unmerged."""
    folder.mkdir(parents=True, exist_ok=True)
    network = write_random_adapter(folder / f"{name}.safetensors", **options)
    Registry(folder).promote(name, "for a test")
    return network


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The file of a random adapter, as a training leaves it behind."""
    path = tmp_path_factory.mktemp("trained") / "adapter_best.safetensors"
    write_random_adapter(path)
    return path


@pytest.fixture
def registry(tmp_path):
    """A registry without adapters."""
    return Registry(tmp_path / "adapters")


def overlap(mask, other):
    """Dice of two boolean masks."""
    return float(2 * (mask & other).sum() / (mask.sum() + other.sum()))


@pytest.fixture(scope="session")
def data_dir():
    """Real images, where $SAM_LORA_DATA says that there are some."""
    folder = os.environ.get("SAM_LORA_DATA")
    if not folder:
        pytest.skip("needs real images: set SAM_LORA_DATA")
    return Path(folder)


@pytest.fixture(scope="session")
def real_slices(data_dir):
    """Five slices of an MR and five of a CT: (image (3, H, W) in [0, 255], the labels' boxes as prompts)."""
    hippocampus, ct = data_dir / "mr-hippocampus-msd", data_dir / "ct-totalsegmentator" / "case01_abdomen_ct"
    found = []
    for image, label, intensity, values, slices in (
        ("images/hippocampus_190.nii.gz", "labels/hippocampus_190.nii.gz", DEFAULT_INTENSITY, (1, 2), range(8, 13)),
        ("image.nii.gz", "label.nii.gz", {"window": [40, 400]}, (1, 2, 3, 5), range(84, 104, 4)),
    ):
        folder = ct if image == "image.nii.gz" else hippocampus
        case = read_case({"image": folder / image, "label": folder / label}, intensity)
        for k in slices:
            masks = np.stack([case.label[k] == value for value in values])
            prompts = sample_prompts(masks, "box", np.random.RandomState(0))
            found.append((torch.from_numpy(case.image[k]).float().expand(3, -1, -1), prompts))
    return found


@pytest.fixture(scope="session")
def brain(tmp_path_factory):
    """Folder with the demonstration's two brain images, as npz."""
    return write_brain_cases(tmp_path_factory.mktemp("brain"))


@pytest.fixture(scope="session")
def python(tmp_path_factory):
    """An interpreter with this environment's packages but without the project: editable installs are not followed."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "packages.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    interpreter = folder / "bin" / "python"
    done = subprocess.run(
        [interpreter, "-c", "import sam_lora"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert "No module named 'sam_lora'" in done.stderr
    return interpreter


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the bundle with the base weights, and nothing that was trained."""
    folder = tmp_path_factory.mktemp("copy") / "bundle"
    shutil.copytree(BUNDLE, folder, ignore=shutil.ignore_patterns("models", "eval", "__pycache__"))
    (folder / "models").mkdir()
    shutil.copy(find_weights("vit_t"), folder / "models" / "lite_medsam.pth")
    return folder


def phantom(shape=(4, 30, 40), seed=0):
    """An image (K, H, W) uint8 and labels 1 and 2, nowhere symmetric."""
    rng = np.random.RandomState(seed)
    label = np.zeros(shape, np.uint8)
    label[:, 5:12, 8:20] = 1
    label[1:, 18:26, 4:10] = 2
    image = (rng.rand(*shape) * 40 + 60 * label + 20).astype(np.uint8)
    return image, label


@pytest.fixture
def dataset_dir(tmp_path):
    """Two training cases and one test case in the npz contract."""
    for section, count in (("train", 2), ("test", 1)):
        (tmp_path / "data" / section).mkdir(parents=True)
        for number in range(count):
            image, label = phantom(seed=number + 10 * count)
            np.savez_compressed(
                tmp_path / "data" / section / f"case{number}.npz",
                imgs=image, gts=label, spacing=[0.8, 0.8, 2.0], labels='{"1": "bar", "2": "block"}',
            )  # fmt: skip
    return tmp_path / "data"


@pytest.fixture
def data(tmp_path, monkeypatch, capsys):
    """`scripts/data.py` as a user types it, in this process, in tmp_path: exit code, stdout and stderr."""
    import runpy

    from sam_lora.cli import run

    commands = runpy.run_path(str(REPOSITORY / "scripts" / "data.py"))["COMMANDS"]

    def command(*words):
        alone = ["--processes", 1] if words[0] in ("ct_mr", "images", "inspect") and "--processes" not in words else []
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["data.py", *map(str, [*words, *alone])])
        capsys.readouterr()
        code = 0
        try:
            run(commands, "data.py")
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return code, out, err

    return command


def run_python(*arguments, cwd, **environment):
    """Run Python in a process of its own; returns the finished process with its text."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, env={**os.environ, **environment}, capture_output=True, encoding="utf-8",
        timeout=900, check=False,
    )  # fmt: skip
