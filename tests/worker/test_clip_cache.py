import os
from pathlib import Path

import pytest

from worker.client.media import ClipCache, content_key


def clip(folder: Path, name: str, size: int) -> Path:
    path = folder / name
    path.write_bytes(name[0].encode() * size)
    return path


def kept(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir())


def test_what_was_put_is_taken_and_survives_its_end(tmp_path: Path) -> None:
    cache = ClipCache(tmp_path / "cache", 100)
    assert not cache.take("a", tmp_path / "target")
    cache.put("a", clip(tmp_path, "a", 10))
    assert cache.take("a", tmp_path / "target")
    (tmp_path / "cache" / "a").unlink()
    assert (tmp_path / "target").read_bytes() == b"a" * 10


def test_the_longest_unused_goes_first(tmp_path: Path) -> None:
    cache = ClipCache(tmp_path / "cache", 100)
    for age, name in enumerate("abc"):
        cache.put(name, clip(tmp_path, name, 30))
        os.utime(tmp_path / "cache" / name, (age, age))
    cache.take("a", tmp_path / "target")
    cache.put("d", clip(tmp_path, "d", 30))
    assert kept(tmp_path / "cache") == ["a", "c", "d"]
    cache.put("e", clip(tmp_path, "e", 95))
    assert kept(tmp_path / "cache") == ["e"]
    cache.put("f", clip(tmp_path, "f", 101))
    assert kept(tmp_path / "cache") == ["e"]


def test_over_two_disks_it_is_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", link)
    cache = ClipCache(tmp_path / "cache", 100)
    assert not cache.take("a", tmp_path / "target")
    cache.put("a", clip(tmp_path, "a", 10))
    assert cache.take("a", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"a" * 10


def test_a_folder_that_cannot_be_made_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    cache = ClipCache(tmp_path / "cache", 100)
    cache.put("a", clip(tmp_path, "a", 10))


def test_a_key_names_a_content() -> None:
    said = {"ETag": '"1"', "Content-Length": "10", "Last-Modified": "Fri"}
    key = content_key("http://s/a.mp4", said)
    assert key
    assert content_key("http://s/a.mp4", {name.lower(): value for name, value in said.items()}) == key
    others = [
        content_key("http://s/b.mp4", said),
        content_key("http://s/a.mp4", said | {"ETag": '"2"'}),
        content_key("http://s/a.mp4", said | {"Content-Length": "11"}),
    ]
    assert len({key, *others}) == 4
    assert content_key("http://s/a.mp4", {"ETag": '"1"'}) is None
    assert content_key("http://s/a.mp4", {"Content-Length": "1"}) is None
