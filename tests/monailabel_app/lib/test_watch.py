"""What follows a promotion."""

import time

from monailabel_app.lib.watch import Watch
from sam_lora.registry import Registry
from tests.conftest import write_champion
from tests.monailabel_app.served import wait_for


def test_each_change_is_told_once_and_the_champion_at_the_start_is_none(registry):
    write_champion(registry.folder, "a")
    told = []
    watch = Watch(registry, lambda name: told.append(name) or True)
    watch.look()
    assert told == []
    write_champion(registry.folder, "b", rank=2)
    watch.look()
    watch.look()
    Registry(registry.folder).rollback()
    watch.look()
    assert told == ["b", "a"]


def test_what_could_not_be_begun_is_tried_again(registry):
    answers = [False, True]
    told = []
    watch = Watch(registry, lambda name: told.append(name) or answers[len(told) - 1])
    write_champion(registry.folder, "a")
    for _ in range(3):
        watch.look()
    assert told == ["a", "a"]


def test_it_goes_on_after_a_registry_that_cannot_be_read(registry, caplog):
    told = []
    watch = Watch(registry, lambda name: told.append(name) or True, seconds=0.01)
    watch.start()
    registry.folder.mkdir()
    (registry.folder / "champion.json").write_text("{")
    assert wait_for(lambda: "champion.json cannot be read" in caplog.text, 10)
    (registry.folder / "champion.json").unlink()
    write_champion(registry.folder, "a")
    assert wait_for(lambda: told == ["a"], 10)
    watch.stop()
    time.sleep(0.1)
    Registry(registry.folder).rollback()
    time.sleep(0.1)
    assert told == ["a"]
