"""Our presets, and full fine-tuning, all by the bundle's own training config."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from monai.bundle import run as run_bundle

from benchmarks.peers.job import Job, Segmenter, sam_segmenter
from sam_lora.adapted import SamLora
from sam_lora.adapter import read_adapter
from sam_lora.build import build_sam_lora
from sam_lora.evaluation import Answer, CaseTruth, EvaluationRules
from sam_lora.files import write_json
from sam_lora.lora import merge_lora

CONFIGS = Path(__file__).resolve().parents[3] / "bundle" / "configs"
# What a run is given besides its cases, time and seed; it goes over the presets' own overlays in the bundle.
COMMON: dict[str, Any] = {"image_size": 112, "device": "cpu"}
PRESETS = ("fast", "accurate", "decoder")
# As the U-Net has it: a network for boxes and one for whole labels, each trained for the whole time.
PROMPTS: dict[str, dict[str, Any]] = {
    "boxed": {"prompt_mode": "box", "corrections": 0},
    # Slices of 35 x 50 voxels. Tokens learn faster so in three minutes, by trials on the validation cases (learning.md).
    "whole": {
        "prompt_mode": "token",
        "corrections": 0,
        "image_size": 56,
        "accumulation_steps": 2,
        "decoder_learning_rate": 1e-3,
    },
}
FULL: dict[str, Any] = {"prompt_mode": "box", "accumulation_steps": 4, "decay": "poly", "optimizer_name": "AdamW"}
# The best of 3e-5, 1e-4, 3e-4 and 1e-3 on the validation cases, with 1 and with 3 cases, after the 150 slices that it
# sees in three minutes (trials by slices, not by time; FULL_SWEEP makes the choice by time).
FULL_RATE = 1e-4
FULL_SWEEP = """for rate in 3e-5 1e-4 3e-4 1e-3; do python scripts/benchmark.py learning --methods full --cases 1,3 \\
  --validation_only --settings "{'learning_rate': $rate}" --folder sweep/full-$rate; done"""
ADAPTER = "adapter_latest.safetensors"


class FullSam(SamLora):
    """SAM that is fine-tuned whole: every parameter is trained; the statistics of its batch norms never move."""

    def trainable_names(self) -> set[str]:
        """Names of all parameters."""
        return {name for name, _ in self.named_parameters()}


def build_full(**settings: Any) -> FullSam:
    """The network of :func:`sam_lora.build.build_sam_lora` without LoRA, everything trainable."""
    adapted = build_sam_lora(**settings)
    merge_lora(adapted)  # at its start it adds nothing
    network = FullSam(adapted.image_encoder, adapted.image_size, adapted.normalization)
    network.prompt_encoder, network.mask_decoder = adapted.prompt_encoder, adapted.mask_decoder
    network.spec, network.neighbours, network.tokens = adapted.spec, adapted.neighbours, adapted.tokens
    return network.requires_grad_(True)


def train_preset(preset: str, job: Job) -> dict[str, Any]:
    """Train by a preset, a network for boxes and one for labels; one alone where the job says how it is prompted.

    Returns:
        What :func:`_train` does of the one that knows boxes, and under "automatic" of the other.
    """
    configs = [CONFIGS / "train.json", CONFIGS / f"{preset}.json"]
    if "prompt_mode" in job.settings:
        return _train(job, configs, {**COMMON, **job.settings})
    boxed, whole = (_train(_part(job, part), configs, {**COMMON, **PROMPTS[part], **job.settings}) for part in PROMPTS)
    return {**boxed, "automatic": whole}


def _part(job: Job, name: str) -> Job:
    folder = job.folder / name
    folder.mkdir(exist_ok=True)
    return replace(job, folder=folder)


def train_full(job: Job) -> dict[str, Any]:
    """Fine-tune every parameter in the same engine, with a rate of its own."""
    rate = job.settings.get("learning_rate", FULL_RATE)
    settings = {"network_def#_target_": "benchmarks.peers.ours.build_full", **COMMON, **FULL, **job.settings}
    return _train(job, [CONFIGS / "train.json"], {**settings, "decoder_learning_rate": rate})


def _train(job: Job, configs: list[Path], settings: dict[str, Any]) -> dict[str, Any]:
    """Run the bundle's training in this process, within the job's time.

    Returns:
        Seconds of training (reading, building, validating and writing left out), slices seen, the history of epochs.
    """
    datalist = {"training": job.cases, "validation": job.validation, "labels": job.labels}
    write_json(job.folder / "datalist.json", datalist)
    with contextlib.redirect_stdout(sys.stderr):  # MONAI's summary is progress, not a result
        run_bundle(
            config_file=[str(path) for path in configs],
            meta_file=str(CONFIGS / "metadata.json"),
            logging_file=str(CONFIGS / "logging.conf"),
            bundle_root=str(CONFIGS.parent),
            dataset_dir=str(job.folder),
            datalist=str(job.folder / "datalist.json"),
            output_dir=str(job.folder / "runs"),
            ckpt_dir=str(job.folder / "models"),
            task_name="train",
            seed=job.seed,
            min_pixels=job.min_pixels,
            minutes=job.seconds / 60,
            **{name: value for name, value in settings.items() if value is not None},
        )
    history = json.loads((run_folder(job) / "history.json").read_text(encoding="utf-8"))
    return {"seconds": history[-1]["seconds"], "slices": history[-1]["slices"], "history": history}


def run_folder(job: Job) -> Path:
    """The newest run: an earlier one was killed."""
    return max((job.folder / "runs").glob("train-*"), key=lambda path: path.stat().st_mtime)


def load_preset(job: Job) -> Segmenter:
    """The networks of a preset with their adapters, each asked what it knows."""
    if "prompt_mode" in job.settings:
        return sam_segmenter(build_sam_lora(adapter=str(run_folder(job) / ADAPTER)))
    boxed, whole = (
        sam_segmenter(build_sam_lora(adapter=str(run_folder(_part(job, name)) / ADAPTER))) for name in PROMPTS
    )

    def segmenter(truth: CaseTruth, rules: EvaluationRules) -> dict[str, Answer]:
        answers: dict[str, Answer] = {}
        for protocol in rules.protocols:
            asked = whole if protocol == "automatic" else boxed
            answers |= asked(truth, replace(rules, protocols=[protocol]))
        return answers

    return segmenter


def load_full(job: Job) -> Segmenter:
    """The network that was fine-tuned whole."""
    path = run_folder(job) / ADAPTER
    adapter = read_adapter(path)
    spec = adapter.spec
    network = build_full(image_size=spec.image_size, decoder=spec.decoder, neighbours=spec.neighbours,
                         labels=spec.labels, tokens=bool(spec.tokens))  # fmt: skip
    network.load_adapter_tensors(adapter.tensors, path)
    return sam_segmenter(network)
