"""Which adapter serves, what each came from, and the way back."""

import json
import multiprocessing

import pytest

from sam_lora.adapter import AdapterError
from sam_lora.registry import Registry, RegistryError
from sam_lora.weights import file_digest
from tests.conftest import write_random_adapter


def add(registry, trained, *names):
    for name in names:
        registry.add(trained, name, {"parent": "none", "cases": [{"image": f"image of {name}", "patient": "p1"}]})


def test_what_is_added_serves_once_it_is_promoted(registry, trained):
    assert registry.champion() == "none"
    digest = registry.add(trained, "first", {"parent": "none"})
    assert registry.champion() == "none"
    assert registry.pedigree("first") == {"name": "first", "parent": "none", "digest": digest}
    registry.promote("first", "because")
    assert registry.champion() == "first"
    assert registry.line()[0] | {"since": ""} == {"name": "first", "digest": digest, "since": "", "why": "because"}
    assert registry.path("first").read_bytes() == trained.read_bytes()
    assert registry.named(digest) == registry.named("first") == "first"


def test_rolling_back_goes_the_way_that_was_come(registry, trained):
    add(registry, trained, "a", "b", "c")
    for name in "abc":
        registry.promote(name, "")
    assert [registry.rollback(), registry.rollback(), registry.rollback()] == ["b", "a", "none"]
    with pytest.raises(RegistryError, match="has no champion: there is nothing to roll back"):
        registry.rollback()
    assert [event["did"] for event in registry.events()] == ["promoted"] * 3 + ["rolled back"] * 3
    registry.promote("b", "again")
    registry.promote("a", "and back")
    registry.promote("b", "once more")  # in the line once
    assert [one["name"] for one in registry.line()] == ["a", "b"]


def test_a_champion_whose_file_is_gone_leaves_the_one_before(registry, trained):
    add(registry, trained, "a", "b")
    registry.promote("a", "")
    registry.promote("b", "")
    registry.path("b").unlink()
    assert registry.champion() == "a"
    assert registry.verify() == ["The champion b has no file any more."]


def test_an_adapter_that_is_altered_is_not_added_and_not_promoted(registry, trained, tmp_path):
    altered = tmp_path / "altered.safetensors"
    content = bytearray(trained.read_bytes())
    content[-1] ^= 1
    altered.write_bytes(content)
    with pytest.raises(AdapterError, match="was altered after it was written"):
        registry.add(altered, "a", {})
    assert registry.names() == []
    add(registry, trained, "a")
    registry.path("a").write_bytes(content)
    with pytest.raises(AdapterError, match="was altered after it was written"):
        registry.promote("a", "")
    assert registry.champion() == "none"
    assert "was altered" in registry.verify()[0]


def test_a_file_that_nobody_added_is_checked_when_it_is_promoted(registry, trained):
    registry.folder.mkdir()
    content = bytearray(trained.read_bytes())
    registry.folder.joinpath("by-hand.safetensors").write_bytes(content)
    registry.promote("by-hand", "")
    assert registry.champion() == "by-hand"
    content[-1] ^= 1
    registry.folder.joinpath("altered.safetensors").write_bytes(content)
    with pytest.raises(AdapterError, match="was altered after it was written"):
        registry.promote("altered", "")
    assert registry.champion() == "by-hand"


def test_an_exchanged_file_is_found(registry, trained, tmp_path):
    add(registry, trained, "a")
    write_random_adapter(tmp_path / "other.safetensors", rank=2)
    registry.path("a").write_bytes((tmp_path / "other.safetensors").read_bytes())
    assert registry.verify() == ["The file of a is another one than was added or promoted."]


@pytest.mark.parametrize("content", [b"no adapter", b""])
def test_a_champion_whose_file_is_no_longer_what_was_promoted_leaves_the_one_before(registry, trained, content):
    add(registry, trained, "a", "b")
    registry.promote("a", "")
    registry.promote("b", "")
    registry.path("b").write_bytes(content)
    assert registry.champion() == "a"
    assert "b.safetensors" in registry.verify()[0]


def test_pruning_keeps_the_newest_the_champion_and_the_one_before(registry, trained):
    import os

    add(registry, trained, *"abcde")
    for age, name in enumerate("edcba"):
        os.utime(registry.path(name), (1e9 - age, 1e9 - age))
    for name in "abc":
        registry.promote(name, "")
    assert registry.prune(keep=1) == ["d", "a"]
    assert registry.names() == ["e", "c", "b"]
    assert registry.champion() == "c"
    assert registry.rollback() == "b"
    assert registry.rollback() == "none"  # a is gone
    assert registry.verify() == []
    with pytest.raises(RegistryError, match="keep must be a whole number of at least 0, got -1"):
        registry.prune(-1)


def test_pruning_keeps_what_serves_where_the_last_two_of_the_line_are_damaged(registry, trained):
    add(registry, trained, "a", "b", "c")
    for name in "abc":
        registry.promote(name, "")
    for name in "bc":
        registry.path(name).write_bytes(b"damaged")
    assert registry.champion() == "a"
    registry.prune(0)
    assert registry.champion() == "a"


@pytest.mark.parametrize("name", ["", "none", "champion", ".hidden", "../up", "a/b", "a" * 129])
def test_names_that_are_no_file_names_are_refused(registry, trained, name):
    with pytest.raises(RegistryError, match="name must be letters, digits"):
        registry.add(trained, name, {})


def test_wrong_questions_get_a_sentence(registry, trained):
    add(registry, trained, "a")
    for ask, sentence in (
        (lambda: registry.add(trained, "a", {}), "has or had an adapter 'a'"),
        (lambda: registry.path("b"), "has no adapter 'b'; its adapters: a"),
        (lambda: registry.promote("b", ""), "has no adapter 'b'"),
        (lambda: registry.named("sha256:0"), "has no adapter with the digest sha256:0"),
    ):
        with pytest.raises(RegistryError, match=sentence):
            ask()
    (registry.folder / "champion.json").write_text("{")
    with pytest.raises(RegistryError, match=r"champion\.json cannot be read"):
        registry.champion()


def test_what_was_compared_with_another_champion_is_not_promoted_by_itself(registry, trained):
    add(registry, trained, "a", "b", "c")
    registry.promote("a", "", over="none")
    registry.promote("b", "by hand")
    with pytest.raises(RegistryError, match="c was compared with a, and b serves now: promoting is up to you"):
        registry.promote("c", "", over="a")
    assert registry.champion() == "b"


def _promote_many(folder, name, times):
    registry = Registry(folder)
    for _ in range(times):
        registry.promote(name, name)


def test_processes_that_promote_at_once_lose_no_event(registry, trained):
    add(registry, trained, "a", "b")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_promote_many, args=(registry.folder, name, 10)) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    state = json.loads((registry.folder / "champion.json").read_text())
    assert len(state["events"]) == 20
    assert sorted(one["name"] for one in state["line"]) == ["a", "b"]
    assert {one["digest"] for one in state["line"]} == {file_digest(trained, "sha256")}


def test_what_killed_processes_were_writing_is_removed_and_what_somebody_writes_by_hand_is_not(registry, trained):
    add(registry, trained, "a")
    left = [".champion.json.1.part", ".b.json.1.part", ".a.safetensors.1.part"]
    for name in (*left, ".mine.safetensors.1.part"):
        (registry.folder / name).touch()
    registry.promote("a", "")
    assert sorted(path.name for path in registry.folder.glob(".*.part")) == [".mine.safetensors.1.part"]
    assert registry.champion() == "a"
