"""What a champion calls its labels joins the names that are annotated."""

import numpy as np
import pytest

from monailabel_app import main
from monailabel_app.lib.watch import Watch
from sam_lora.cases import write_nifti
from sam_lora.registry import Registry
from tests.conftest import REPOSITORY, write_champion
from tests.monailabel_app.served import wait_for


@pytest.fixture
def server(tmp_path, monkeypatch):
    """An app that is served; it looks at its registry all the time."""
    watches = []

    def watch(registry, then):
        watches.append(Watch(registry, then, seconds=0.02))
        return watches[-1]

    monkeypatch.setattr(main, "Watch", watch)
    write_nifti(tmp_path / "a.nii.gz", np.zeros((6, 5, 4), np.float32), np.eye(4))
    write_champion(adapters(tmp_path), "first", labels={1: "spleen"})
    app = main.SamLoraLabel(str(REPOSITORY / "monailabel_app"), str(tmp_path), {"labels": "liver"})
    app._auto_update_scoring = False  # as scripts/serve.py has it
    monkeypatch.setattr(app.parts.service, "warm_up", lambda: None)
    yield app
    for one in watches:
        one.stop()


def adapters(studies):
    return studies / ".sam_lora" / "adapters"


def test_names_join_when_the_champion_changes_and_none_is_renumbered(server):
    server.on_init_complete()
    assert server.info()["labels"] == ["liver", "spleen"]
    write_champion(adapters(server.parts.folder), "by-hand", labels={1: "tumour", 2: "spleen"})
    assert wait_for(lambda: len(server.info()["labels"]) == 3, 10)
    assert server.parts.labels.read() == {1: "liver", 2: "spleen", 3: "tumour"}
    assert server.parts.prompted.info()["labels"] == {"liver": 1, "spleen": 2, "tumour": 3}


def test_a_promotion_during_the_start_is_not_missed(server):
    write_champion(adapters(server.parts.folder), "by-hand", labels={1: "tumour"})
    server.on_init_complete()
    assert server.info()["labels"] == ["liver", "spleen", "tumour"]


def test_a_name_that_cannot_be_one_is_said_and_the_rest_goes_on(server, caplog):
    server.on_init_complete()
    write_champion(adapters(server.parts.folder), "by-hand", labels={1: "background"})
    assert wait_for(lambda: "does not join the names: A label's name has" in caplog.text, 10)
    write_champion(adapters(server.parts.folder), "next", labels={1: "kidney"})
    assert wait_for(lambda: "kidney" in server.info()["labels"], 10)
    assert caplog.text.count("does not join the names") == 1
    Registry(adapters(server.parts.folder)).rollback()
    assert wait_for(lambda: caplog.text.count("does not join the names") == 2, 10)
    assert server.info()["labels"] == ["liver", "spleen", "kidney"]


def test_a_champion_whose_names_cannot_join_keeps_no_process_from_starting(server, caplog):
    for name in ("background", "tumour (left)"):
        write_champion(adapters(server.parts.folder), f"by-hand-{len(name)}", labels={1: name})
        again = main.SamLoraLabel(str(REPOSITORY / "monailabel_app"), str(server.parts.folder), {})  # a training's
        assert again.info()["labels"] == ["liver", "spleen"]
        assert "does not join the names: A label's name has" in caplog.text
        assert name in caplog.text
