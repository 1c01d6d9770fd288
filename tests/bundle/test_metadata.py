"""One version everywhere, and metadata that MONAI accepts."""

import json
import re

import yaml
from jsonschema import validate

from sam_lora import __version__
from sam_lora.networks import VARIANTS
from sam_lora.weights import CHECKPOINTS, file_digest
from tests.conftest import BUNDLE, REPOSITORY

SCHEMA = REPOSITORY / "tests" / "bundle" / "meta_schema_20240725.json"  # MONAI's own, byte for byte
METADATA = json.loads((BUNDLE / "configs" / "metadata.json").read_text())


def test_the_version_is_one():
    changelog = (REPOSITORY / "CHANGELOG.md").read_text()
    assert METADATA["version"] == __version__ == re.search(r"^## (\d+\.\d+\.\d+)", changelog, re.M).group(1)
    assert __version__ in METADATA["changelog"]


def test_the_metadata_follow_the_genuine_schema():
    assert file_digest(SCHEMA, "md5") == "md5:06954cad2cc5d3784e72077ac76f0fc8"
    validate(METADATA, json.loads(SCHEMA.read_text()))


def test_the_large_file_is_the_default_variants():
    (entry,) = yaml.safe_load((BUNDLE / "large_files.yml").read_text())["large_files"]
    row = CHECKPOINTS["vit_t"]
    assert entry["path"] == f"models/{row.filename}"
    assert f"{entry['hash_type']}:{entry['hash_val']}" == row.digest
    assert entry["url"] == row.url


def test_every_variant_has_a_checkpoint():
    assert CHECKPOINTS.keys() == VARIANTS.keys()


def test_what_a_bundle_must_have_is_there():
    for name in ("LICENSE", "docs/README.md", "docs/data_license.txt", "configs/logging.conf"):
        assert (BUNDLE / name).stat().st_size > 100
