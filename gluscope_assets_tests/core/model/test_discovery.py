"""Finding checkpoints: complete ones of a folder that is being filled, and those of a server that speaks as the Hub does."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.model.checkpoint import resolve_checkpoint
from gluscope_assets.core.model.discovery import find_candidates, is_complete, slug, weights_hash
from gluscope_assets.core.options import CheckpointOptions, DiscoveryOptions


def test_checkpoints_come_in_the_order_of_training(tmp_path: Path, tiny_checkpoints: Path) -> None:
    for step in (1000, 200, 30):
        shutil.copytree(tiny_checkpoints / "first", tmp_path / f"checkpoint-{step}")
    (tmp_path / "runs").mkdir()
    (tmp_path / "checkpoint-1.txt").write_text("no folder")
    found, unfinished = find_candidates(DiscoveryOptions(folder=tmp_path))
    assert [candidate.name for candidate in found] == ["checkpoint-30", "checkpoint-200", "checkpoint-1000"]
    assert not unfinished
    found, _ = find_candidates(DiscoveryOptions(folder=tmp_path, every=100))
    assert [candidate.name for candidate in found] == ["checkpoint-200", "checkpoint-1000"]


def test_a_checkpoint_is_left_alone_at_every_point_of_its_writing(tmp_path: Path, tiny_checkpoints: Path) -> None:
    source, target = tiny_checkpoints / "first", tmp_path / "checkpoint-10"
    target.mkdir()
    weights = (source / "model.safetensors").read_bytes()
    header = 8 + int.from_bytes(weights[:8], "little")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, target)
        assert not is_complete(target)
    # A writer that stops inside the length, the header or the tensors, or has one byte to go.
    for written in (0, 4, 8, header // 2, header, header + 100, len(weights) - 1):
        (target / "model.safetensors").write_bytes(weights[:written])
        assert not is_complete(target), written
        assert find_candidates(DiscoveryOptions(folder=tmp_path)) == ([], ["checkpoint-10"])
    (target / "model.safetensors").write_bytes(weights)
    assert is_complete(target)
    (target / "config.json").write_text('{"model_type": ')
    assert not is_complete(target)


def test_a_checkpoint_in_parts_needs_every_part_that_its_index_names(tmp_path: Path, tiny_checkpoints: Path) -> None:
    target = tmp_path / "checkpoint-10"
    shutil.copytree(tiny_checkpoints / "first", target)
    parts = [f"model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    (target / "model.safetensors").rename(target / parts[0])
    (target / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": parts[0], "b": parts[1]}}))
    assert not is_complete(target)
    shutil.copy(target / parts[0], target / parts[1])
    assert is_complete(target)


def test_names_become_keys_and_folders() -> None:
    assert [slug(name) for name in ("step 10", "refs/pr/1", "--x", "é")] == ["step-10", "refs-pr-1", "x", "checkpoint"]


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="model.discover.folder: .*none does not exist; create it"):
        find_candidates(DiscoveryOptions(folder=tmp_path / "none"))


@contextmanager
def hub(checkpoints: Path, refs: dict[str, str]) -> Iterator[str]:
    """A server that answers the Hub's listing calls for `owner/model`; a commit's files are the folder `refs` names."""

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/api/models/owner/model/refs":
                branches = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit(name)} for name in refs]
                self.answer(json.dumps({"branches": branches, "tags": [], "converts": []}).encode())
                return
            for name, folder in refs.items():
                files = checkpoints / folder
                if path == f"/api/models/owner/model/revision/{commit(name)}":
                    weights = (files / "model.safetensors").read_bytes()
                    lfs = {"sha256": hashlib.sha256(weights).hexdigest(), "size": len(weights), "pointerSize": 134}
                    siblings = [
                        {"rfilename": "config.json", "size": 1, "blobId": "1"},
                        {"rfilename": "model.safetensors", "size": len(weights), "blobId": "2", "lfs": lfs},
                    ]
                    self.answer(json.dumps({"id": "owner/model", "sha": commit(name), "siblings": siblings}).encode())
                    return
                if path == f"/owner/model/resolve/{commit(name)}/config.json":
                    self.answer((files / "config.json").read_bytes(), commit(name))
                    return
            self.send_error(404)

        def answer(self, content: bytes, revision: str | None = None) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Type", "application/json")
            if revision:
                self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", revision)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def commit(name: str) -> str:
    return hashlib.sha1(name.encode()).hexdigest()


def test_branches_of_the_hub_are_checkpoints_by_commit(
    tmp_path: Path, tiny_checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub import constants, file_download, hf_api

    refs = {"step10": "first", "step9": "second", "main": "third"}
    with hub(tiny_checkpoints, refs) as endpoint:
        for module in (constants, hf_api, file_download):
            monkeypatch.setattr(module, "ENDPOINT", endpoint, raising=False)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", endpoint)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        found, unfinished = find_candidates(DiscoveryOptions(repository="owner/model", pattern="step*"))
        assert [(one.name, one.revision) for one in found] == [("step9", commit("step9")), ("step10", commit("step10"))]
        assert not unfinished
        for candidate in found:
            local = CheckpointOptions(name="local", path=tiny_checkpoints / refs[candidate.name])
            assert weights_hash(candidate) == resolve_checkpoint(local).weights_hash, "known without a download"
        assert not list((tmp_path / "cache").rglob("*.safetensors"))
