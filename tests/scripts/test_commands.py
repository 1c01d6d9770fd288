"""The commands as a user types them: help that fits a screen, results on stdout, sentences and exit codes."""

import json
import sys

import pytest

from sam_lora import __version__
from sam_lora.registry import Registry
from tests.conftest import REPOSITORY, run_python, write_random_adapter

SCRIPTS = sorted(p.name for p in (REPOSITORY / "scripts").glob("*.py"))
COMMANDS = {
    "weights.py": ["list", "get", "verify"],
    "adapter.py": ["info", "verify", "compare", "import", "export", "merge", "list", "promote", "rollback", "prune"],
    "benchmark.py": ["encoder", "data", "volume", "learning", "serve", "swap", "train", "loop", "active_learning"],
    "data.py": ["ct_mr", "images", "convert", "split", "inspect", "decathlon"],
    "doctor.py": [],
    "brain_demo.py": [],
    "demo.py": [],
    "segment.py": [],
    "serve.py": [],
    "brain_studies.py": [],
}


def test_every_script_is_known_here():
    assert sorted(COMMANDS) == SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_fits_a_screen(script, monkeypatch, capsys):
    for command in [[], *([c] for c in COMMANDS[script])]:
        text = help_of(script, command, monkeypatch, capsys)
        assert 3 <= len(text.splitlines()) <= 40, (script, command)
        assert max(map(len, text.splitlines())) <= 110, (script, command)


def help_of(script, command, monkeypatch, capsys):
    import runpy

    monkeypatch.setattr(sys, "argv", [script, *command, "--help"])
    runpy.run_path(str(REPOSITORY / "scripts" / script), run_name="__main__")
    captured = capsys.readouterr()
    return captured.out + captured.err


def exit_code(script, arguments, monkeypatch):
    import runpy

    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(REPOSITORY / "scripts" / script), run_name="__main__")
    return stop.value.code


def test_who_saw_a_patient_is_listed_and_of_whom_nobody_knows_is_said(tmp_path, monkeypatch, capsys):
    import runpy

    write_random_adapter(tmp_path / "trained.safetensors")
    registry = Registry(tmp_path / "adapters")
    registry.add(tmp_path / "trained.safetensors", "a", {"cases": [{"image": "i", "patient": "p1"}], "parent": "none"})
    (tmp_path / "adapters" / "by-hand.safetensors").write_bytes((tmp_path / "trained.safetensors").read_bytes())
    monkeypatch.setattr(sys, "argv", ["adapter.py", "list", str(tmp_path / "adapters"), "--trained-on", "p1"])
    runpy.run_path(str(REPOSITORY / "scripts" / "adapter.py"), run_name="__main__")
    said = capsys.readouterr()
    assert said.out.splitlines()[0].split() == ["a", "1", "cases,", "from", "none"]
    assert "by-hand" not in said.out
    assert said.err == "No pedigree tells whom these were trained on: by-hand.\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["vit_t", "out.pt"], "output must end in .safetensors (the format of Sam_LoRA) or .onnx, got out.pt."),
        (["vit_t", "out.safetensors"], "There is no adapter vit_t."),
        (["a.safetensors", "out.safetensors", "--multimask"], "multimask, image_size and weights are for .onnx only."),
        (["vit_x", "out.onnx"], "There is no adapter vit_x."),
        (
            ["vit_t", "out.onnx", "--image_size", 30],
            "image_size must be a positive multiple of 4 for this encoder, got 30.",
        ),
    ],
)
def test_what_adapter_export_refuses(arguments, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert exit_code("adapter.py", ["export", *arguments], monkeypatch) == 1
    assert capsys.readouterr().err == f"error: {sentence}\n"
    assert list(tmp_path.iterdir()) == []


def test_adapter_compare_says_who_is_ahead_and_refuses_what_cannot_be_compared(tmp_path, monkeypatch, capsys):
    import runpy

    from tests.sam_lora.evaluation.test_comparison import SPREAD, metrics

    for name, content in (("a", metrics(SPREAD)), ("b", metrics(SPREAD + 0.05)), ("c", metrics(SPREAD, seed=3))):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["adapter.py", "compare", "a.json", "b.json", "--json", "out.json"])
    runpy.run_path(str(REPOSITORY / "scripts" / "adapter.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert "B - A +0.050 [+0.050, +0.050]  B is ahead (8 patients)" in said
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["protocols"]["oracle_box"]["mean_dice"]["ahead"] == "second"
    assert exit_code("adapter.py", ["compare", "a.json", "c.json"], monkeypatch) == 1
    assert "error: The evaluations have different seeds, 0 and 3" in capsys.readouterr().err


def test_doctor_says_what_to_do(tmp_path):
    (tmp_path / "broken.safetensors").write_bytes(b"1")
    done = run_python("scripts/doctor.py", "--device", "cuda:99", "--models", tmp_path, cwd=REPOSITORY)
    assert done.returncode == 1
    assert "BAD  device                 cuda:99 cannot be used" in done.stdout
    assert "BAD  broken.safetensors" in done.stdout
    assert done.stderr.strip().endswith("checks need attention, see the lines marked BAD.")


def test_weights_and_adapters_from_the_command_line(tmp_path):
    from sam_lora.adapter import Adapter, write_adapter
    from sam_lora.build import build_sam_lora
    from sam_lora.weights import find_weights

    network = build_sam_lora(image_size=64)
    write_adapter(tmp_path / "a.safetensors", Adapter(network.spec, network.adapter_tensors()))
    done = run_python("scripts/weights.py", "verify", find_weights("vit_t"), cwd=REPOSITORY)
    assert (done.returncode, done.stdout.split()[-1]) == (0, "vit_t."), done.stderr
    done = run_python("scripts/weights.py", "verify", tmp_path / "a.safetensors", cwd=REPOSITORY)
    assert done.returncode == 1
    assert (
        "is no published checkpoint of vit_b, vit_l, vit_h, medsam_vit_b, vit_t: its hash is none of theirs"
        in done.stderr
    )
    done = run_python("scripts/adapter.py", "info", tmp_path / "a.safetensors", cwd=REPOSITORY)
    content = json.loads(done.stdout)
    assert (content["variant"], content["code_version"], content["parameters"]) == ("vit_t", __version__, 29_696)
    for command, words in (
        (["verify", tmp_path / "a.safetensors"], "is whole and fits vit_t: 40 tensors"),
        (["export", tmp_path / "a.safetensors", tmp_path / "w.safetensors"], "w.safetensors"),
        (["import", tmp_path / "w.safetensors", tmp_path / "b.safetensors", "--variant", "vit_t"], "b.safetensors"),
        (["merge", tmp_path / "a.safetensors", tmp_path / "full.safetensors"], "full.safetensors"),
    ):
        done = run_python("scripts/adapter.py", *command, cwd=REPOSITORY)
        assert done.returncode == 0, done.stderr
        assert words in done.stdout
    done = run_python("scripts/weights.py", "get", "vit_t", "--source", tmp_path / "full.safetensors", cwd=REPOSITORY)
    assert done.returncode == 1
    assert "is no published file but sealed base weights: use it where it is" in done.stderr
    done = run_python(
        "scripts/adapter.py", "export", tmp_path / "a.safetensors", "/nowhere/w.safetensors", cwd=REPOSITORY
    )
    assert (done.returncode, done.stderr[:7]) == (1, "error: ")
    done = run_python("scripts/adapter.py", "verify", tmp_path / "w.safetensors", cwd=REPOSITORY)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
