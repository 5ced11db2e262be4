"""The command token between real processes: the kernel keeps what messages cannot."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")

from vdd_ros.core.errors import VddError
from vdd_ros.nodes.token import CommandToken, token_path

OTHER = """
import sys
from pathlib import Path
import numpy as np
from vdd_ros.nodes.token import CommandToken
token = CommandToken(Path(sys.argv[1]), role=sys.argv[2], dim=2, motion=2, layout=3)
for line in sys.stdin:
    word, *values = line.split()
    if word == "take":
        token.take()
    elif word == "enter":
        token.enter()
    elif word == "leave":
        token.leave()
    elif word == "send":
        token.enter()
        numbers = np.array([float(v) for v in values[1:]])
        token.sent(numbers[:2], int(values[0]), numbers[2:])
        token.leave()
    print(word, token.mine, flush=True)
"""


class Other:
    """The partner, a process of its own."""

    def __init__(self, path: Path, role: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OTHER, str(path), role],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.does("look")

    def does(self, word: str) -> bool:
        """Let it do something; return whether the command is its own then."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        said = self.process.stdout.readline().split()
        assert said[0] == word.split()[0]
        return said[1] == "True"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return token_path("/policy", "/teacher", domain=7, folder=tmp_path)


@pytest.fixture
def other(path: Path) -> Iterator[Other]:
    made = Other(path, "command")
    yield made
    made.kill()


def test_the_command_belongs_to_who_took_it_last(path: Path, other: Other) -> None:
    """Both see it at once, without a message."""
    token = CommandToken(path, role="standby", dim=2)
    assert not token.mine
    assert other.does("take")
    assert not token.mine
    token.take()
    assert token.mine
    assert not other.does("look")
    token.close()


def test_the_end_of_a_process_is_known_at_once_and_its_place_is_free_again(
    path: Path, other: Other
) -> None:
    """A partner that never was there is not gone; a killed one is, until it is back."""
    token = CommandToken(path, role="standby", dim=2)
    token.look()
    assert (token.shared, token.gone) == (True, False)
    other.kill()
    token.look()
    assert (token.shared, token.gone) == (False, True)
    back = Other(path, "command")
    token.look()
    assert (token.shared, token.gone) == (True, False)
    back.kill()
    token.close()
    alone = CommandToken(path, role="standby", dim=2)
    alone.look()
    assert (alone.shared, alone.gone) == (False, False)
    alone.close()


def test_what_was_sent_last_is_known_to_both(path: Path, other: Other) -> None:
    """The command itself, how long ago, and which observation it answered."""
    token = CommandToken(path, role="standby", dim=2)
    assert token.last(10**9) is None
    other.does("take")
    other.does("send 123456789012345678 0.1 -2.5 0.25 1e-9")
    last = token.last(60 * 10**9)
    assert last is not None
    np.testing.assert_array_equal(last, [0.1, -2.5])
    assert token.last(0) is None
    stamp = 123456789012345678
    assert token.answered(stamp, 1000)
    assert token.answered(stamp - 1000, 1000)
    assert not token.answered(stamp - 1001, 1000)
    assert not token.answered(stamp + 1, 1000)
    token.sent(np.array([1.0, 2.0]), 5, np.zeros(0))
    assert token.answered(stamp, 1000)
    np.testing.assert_array_equal(token.last(60 * 10**9), [1.0, 2.0])
    token.close()


def test_how_the_command_moved_is_known_to_who_has_the_same_limits(
    path: Path, other: Other
) -> None:
    """It outlives its sender; a node of other limits is told nothing, nor is one told of NaN."""
    token = CommandToken(path, role="standby", dim=2, motion=2, layout=3)
    assert token.motion is None
    other.does("send 1 0.1 -2.5 0.25 1e-9")
    other.kill()
    np.testing.assert_array_equal(token.motion, [0.25, 1e-9])
    token.close()
    token = CommandToken(path, role="standby", dim=2, motion=2, layout=4)
    assert token.motion is None
    token.sent(np.zeros(2), 2, np.array([[1.0], [2.0]]))
    np.testing.assert_array_equal(token.motion, [1.0, 2.0])
    token.sent(np.zeros(2), 3, np.array([np.nan, 2.0]))
    assert token.motion is None
    token.close()


def test_a_partner_stopped_while_sending_does_not_stop_this_node(path: Path, other: Other) -> None:
    """The guard is waited for, but not for ever."""
    token = CommandToken(path, role="standby", dim=2)
    other.does("take")
    other.does("enter")
    token.take()
    assert token.mine
    token.enter()
    token.leave()
    assert not other.does("leave")
    token.close()


def test_a_partner_that_is_sending_is_waited_for(path: Path, other: Other) -> None:
    """What it is sending goes out before the command changes hands."""
    token = CommandToken(path, role="standby", dim=2)
    token.enter()
    began = time.monotonic()
    other.does("take")  # waits until its patience is over, for the guard is not given back
    assert time.monotonic() - began >= 0.002
    token.leave()
    token.close()


def test_a_place_is_not_given_twice(path: Path, other: Other) -> None:
    """A node that runs twice by mistake says so instead of taking the other's place."""
    with pytest.raises(VddError, match="running twice"):
        CommandToken(path, role="command", dim=2)
    assert other.does("take")


def test_a_link_in_its_place_is_not_followed(path: Path, tmp_path: Path) -> None:
    """Nobody can make a node write to another file."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    path.symlink_to(victim)
    with pytest.raises(VddError, match="no command token"):
        CommandToken(path, role="command", dim=2)
    assert victim.read_bytes() == b"precious"


def test_both_find_the_same_file_and_others_another(tmp_path: Path) -> None:
    """Whoever asks, in whatever order; another pair or domain has its own."""
    path = token_path("/a/policy", "/a/teacher", domain=1, folder=tmp_path)
    assert path == token_path("/a/teacher", "/a/policy", domain=1, folder=tmp_path)
    assert path.parent == tmp_path
    others = {
        token_path("/b/policy", "/b/teacher", domain=1, folder=tmp_path),
        token_path("/a/policy", "/a/teacher", domain=2, folder=tmp_path),
    }
    assert path not in others
    assert len(others) == 2
