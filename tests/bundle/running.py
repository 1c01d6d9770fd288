"""The bundle's configs, run in this process as `python -m monai.bundle run` runs them."""

from monai.bundle import ConfigWorkflow

from tests.conftest import BUNDLE

TRAIN, EVALUATE, INFERENCE = (str(BUNDLE / "configs" / f"{n}.json") for n in ("train", "evaluate", "inference"))
FAST = {
    "image_size": 64,
    "device": "cpu",
    "min_pixels": 20,
    "epochs": 2,
    "accumulation_steps": 2,
    "checkpoint_interval": 2,
}


def workflow(config, kind, tmp_path, **overrides):
    return ConfigWorkflow(
        config_file=config, meta_file=str(BUNDLE / "configs" / "metadata.json"), logging_file=False, workflow_type=kind,
        bundle_root=str(BUNDLE), output_dir=str(tmp_path / "out"), **overrides,
    )  # fmt: skip


def execute(config, kind, tmp_path, **overrides):
    run = workflow(config, kind, tmp_path, **overrides)
    run.initialize()
    run.run()
    run.finalize()
    return sorted((tmp_path / "out").iterdir())[-1]


def train(tmp_path, dataset_dir, **overrides):
    options = {**FAST, "dataset_dir": str(dataset_dir), "ckpt_dir": str(tmp_path / "models"), **overrides}
    return execute(TRAIN, "train", tmp_path, **options)


def chain(error):
    texts = []
    while error is not None:
        texts.append(str(error))
        error = error.__cause__ or error.__context__
    return texts
