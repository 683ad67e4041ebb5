"""Files that appear whole or not at all, and the ordered map over threads."""

from __future__ import annotations

import errno
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from athsearch.files import replacing
from athsearch.parallel import map_ahead


def test_a_file_is_replaced_when_all_went_well(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("x"), OSError(errno.ENOSPC, "full")])
def test_a_file_stays_when_something_went_wrong(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write_half() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)) as raised:
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    if isinstance(raised.value, OSError):
        assert (raised.value.filename, raised.value.strerror) == (str(path), os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (".", errno.EISDIR),
        ("", errno.EISDIR),
        ("/", errno.EISDIR),
        ("folder", errno.EISDIR),
        ("gone/file", errno.ENOENT),
        ("file/file", errno.ENOTDIR),
    ],
)
def test_where_no_file_can_be_the_block_is_not_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("old")
    with pytest.raises(OSError, match=os.strerror(code)) as raised, replacing(Path(name)):
        pytest.fail("entered")
    assert (raised.value.errno, raised.value.filename) == (code, str(Path(name)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_device_is_not_replaced_and_a_link_stays_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"), replacing(tmp_path / "pipe"):
        pytest.fail("entered")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder/file")
    for text in ("first", "second"):
        with replacing(tmp_path / "link") as temporary:
            temporary.write_text(text)
        assert (tmp_path / "folder" / "file").read_text() == text
    assert (tmp_path / "link").is_symlink()


def test_threads_that_replace_a_file_leave_a_whole_one(tmp_path: Path) -> None:
    path, texts = tmp_path / "file", [str(number) * 20_000 for number in range(4)]
    path.write_text(texts[0])

    def write(text: str) -> None:
        for _ in range(20):
            with replacing(path) as temporary:
                temporary.write_text(text)
            assert path.read_text() in texts

    with ThreadPoolExecutor(len(texts)) as pool:
        list(pool.map(write, texts))
    assert list(tmp_path.iterdir()) == [path]


def test_results_come_in_order_and_not_far_ahead() -> None:
    started: list[int] = []

    def slow(number: int) -> int:
        started.append(number)
        time.sleep(0.002 * (number % 3))
        return number * number

    results = map_ahead(slow, range(50), n_ahead=5)
    for number, result in enumerate(results):
        assert result == number * number
        assert len(started) <= number + 1 + 5
    assert sorted(started) == list(range(50))


def test_an_exception_comes_at_its_items_place() -> None:
    def fail_at_3(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number

    results = map_ahead(fail_at_3, range(100), n_ahead=4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


def test_threads_end_when_the_reader_stops_early() -> None:
    before = threading.active_count()
    results = map_ahead(abs, range(1000), n_ahead=4)
    next(results)
    results.close()
    assert threading.active_count() == before
