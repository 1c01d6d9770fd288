"""Base checkpoints: genuine ones found and read, others refused; downloads that continue."""

import functools
import hashlib
import pickle
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from safetensors.torch import save_file

from sam_lora import weights
from sam_lora.interop import write_base
from sam_lora.networks import build_sam
from sam_lora.weights import (
    Checkpoint,
    WeightsError,
    find_weights,
    get_weights,
    identify,
    load_tensors,
    load_weights,
    tensors_digest,
    verify_weights,
)


class Runs:
    """What a hostile pickle would do: run something when it is read."""

    def __reduce__(self):
        return (print, ("this ran",))


def test_vit_t_is_found_in_its_package_and_known_by_its_hash(tmp_path):
    path = find_weights("vit_t", tmp_path)
    assert identify(path) == "vit_t"
    assert get_weights("vit_t", folder=tmp_path) == tmp_path / "lite_medsam.pth" == find_weights("vit_t", tmp_path)
    assert get_weights("vit_t", folder=tmp_path).read_bytes() == path.read_bytes()


def test_pth_and_safetensors_of_the_same_tensors_have_one_digest(tmp_path):
    tensors = {"b": torch.rand(3), "a": torch.arange(4), "c": torch.tensor(1)}
    torch.save({"model": tensors}, tmp_path / "x.pth")
    save_file(tensors, tmp_path / "x.safetensors")
    digests = {tensors_digest(load_tensors(tmp_path / name)) for name in ("x.pth", "x.safetensors")}
    assert digests == {tensors_digest(tensors)}
    assert tensors_digest({**tensors, "a": torch.arange(4, dtype=torch.int32)}) not in digests
    assert tensors_digest({**tensors, "a": torch.arange(4).view(2, 2)}) not in digests


def test_wrappers_and_the_prefix_of_multi_gpu_training_are_seen_through(tmp_path):
    tensors = {"a.weight": torch.rand(3)}
    for content in (tensors, {"model": tensors}, {"state_dict": {f"module.{k}": v for k, v in tensors.items()}}):
        torch.save(content, tmp_path / "x.pth")
        assert torch.equal(load_tensors(tmp_path / "x.pth")["a.weight"], tensors["a.weight"])


def test_unreadable_checkpoints_are_refused(tmp_path, capsys):
    with (tmp_path / "pickle.pth").open("wb") as file:
        pickle.dump(Runs(), file)
    torch.save({"model": Runs()}, tmp_path / "torch.pth")
    torch.save({"a": torch.zeros(100)}, tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:300])
    (tmp_path / "cut.safetensors").write_bytes(b"123")
    torch.save([1, 2], tmp_path / "list.pth")
    sentences = {
        "pickle.pth": "is a pickle that holds more than tensors, and reading it could run code",
        "torch.pth": "is a pickle that holds more than tensors, and reading it could run code",
        "cut.pth": "cannot be read as a checkpoint; it is cut short or of another format",
        "cut.safetensors": "cannot be read as a checkpoint; it is cut short or of another format",
        "list.pth": "holds no state dict",
        "none.pth": "There is no file",
    }
    for name, sentence in sentences.items():
        with pytest.raises(WeightsError, match=sentence):
            load_tensors(tmp_path / name)
    assert "this ran" not in capsys.readouterr().out


@pytest.fixture
def two_rows(monkeypatch, tmp_path):
    """A table in which vit_b and medsam_vit_b stand for files made here."""
    torch.save({"a": torch.zeros(1)}, tmp_path / "sam.pth")
    torch.save({"a": torch.ones(1)}, tmp_path / "medsam.pth")
    md5 = hashlib.md5((tmp_path / "sam.pth").read_bytes(), usedforsecurity=False).hexdigest()
    table = {"vit_b": Checkpoint("sam.pth", "http://127.0.0.1:1/sam.pth", f"md5:{md5}"),
             "medsam_vit_b": Checkpoint("medsam.pth", None, None)}  # fmt: skip
    monkeypatch.setattr(weights, "CHECKPOINTS", table)
    return tmp_path


def test_one_rows_file_under_another_rows_name_is_refused(two_rows):
    verify_weights(two_rows / "sam.pth", "vit_b")
    verify_weights(two_rows / "medsam.pth", "medsam_vit_b")
    with pytest.raises(
        WeightsError, match="medsam.pth is not the published file of vit_b: its hash is md5:.*, expected md5:"
    ):
        verify_weights(two_rows / "medsam.pth", "vit_b")
    with pytest.raises(
        WeightsError, match="sam.pth is the published file of vit_b, not of medsam_vit_b: ask for `--variant vit_b`"
    ):
        verify_weights(two_rows / "sam.pth", "medsam_vit_b")
    with pytest.raises(WeightsError, match="not the published file of vit_b"):
        get_weights("vit_b", two_rows / "medsam.pth", two_rows / "models")
    assert not (two_rows / "models").exists()


def test_what_is_not_published_is_asked_for(two_rows):
    with pytest.raises(WeightsError, match="MedSAM publishes medsam.pth through a shared folder only.*--source FILE"):
        get_weights("medsam_vit_b", folder=two_rows / "models")
    assert get_weights("medsam_vit_b", two_rows / "medsam.pth", two_rows / "models").is_file()
    with pytest.raises(WeightsError, match="There is no file .*nowhere"):
        get_weights("medsam_vit_b", two_rows / "nowhere", two_rows / "models")


def test_an_address_out_of_reach_says_what_to_do(two_rows):
    with pytest.raises(WeightsError, match="could not be fetched .*--source FILE"):
        get_weights("vit_b", folder=two_rows / "models")


def test_sealed_base_weights_name_their_variant_and_notice_changes(tmp_path):
    tensors = build_sam("vit_t").state_dict()
    write_base(tmp_path / "mine.safetensors", tensors, "vit_t")
    assert load_weights(tmp_path / "mine.safetensors", "vit_t").keys() == tensors.keys()
    with pytest.raises(WeightsError, match="holds base weights of vit_t, not of vit_b"):
        verify_weights(tmp_path / "mine.safetensors", "vit_b")
    content = bytearray((tmp_path / "mine.safetensors").read_bytes())
    content[-3] ^= 1
    (tmp_path / "mine.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match="was altered after it was written"):
        load_weights(tmp_path / "mine.safetensors", "vit_t")
    with pytest.raises(WeightsError, match="these are not weights of vit_t"):
        write_base(tmp_path / "short.safetensors", {"a": torch.zeros(1)}, "vit_t")


class Server(BaseHTTPRequestHandler):
    """Serves bytes with ranges, and breaks off once."""

    def __init__(self, content, state, *args):
        self.content, self.state = content, state
        super().__init__(*args)

    def do_GET(self):
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.state["starts"].append(start)
        if start >= len(self.content):
            self.send_error(416)
            return
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        end = self.state.pop("break_at", None)
        self.wfile.write(self.content[start:end])

    def log_message(self, *_):
        pass


@pytest.mark.accept
def test_a_download_that_broke_off_continues_and_a_wrong_one_is_thrown_away(two_rows, monkeypatch):
    content = (two_rows / "sam.pth").read_bytes()
    state = {"starts": [], "break_at": 100}
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Server, content, state))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/sam.pth"
        row = weights.CHECKPOINTS["vit_b"]
        monkeypatch.setitem(weights.CHECKPOINTS, "vit_b", Checkpoint("sam.pth", url, row.digest))
        with pytest.raises(WeightsError, match=f"the connection ended after 100 of {len(content)} bytes"):
            get_weights("vit_b", folder=two_rows / "models")
        assert get_weights("vit_b", folder=two_rows / "models").read_bytes() == content
        assert state["starts"] == [0, 100]
        assert [p.name for p in (two_rows / "models").iterdir()] == ["sam.pth"]
        monkeypatch.setitem(weights.CHECKPOINTS, "vit_b", Checkpoint("sam.pth", url, "md5:0"))
        with pytest.raises(WeightsError, match="its hash is md5:"):
            get_weights("vit_b", folder=two_rows / "other")
        assert list((two_rows / "other").iterdir()) == []
    finally:
        server.shutdown()
        server.server_close()
