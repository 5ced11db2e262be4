"""Every command helps, every mistake gets one clear message, `--json` is one object."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.conftest import ROOT, Vdd
from vdd_ros import __version__
from vdd_ros.cli import main as cli
from vdd_ros.cli.command import Answer, as_typed, standard_output_to_error, table, whole_numbers
from vdd_ros.cli.distill import Distill
from vdd_ros.core.errors import VddError

COMMANDS = tuple(cli.COMMANDS)


@dataclass(frozen=True)
class Talkative:
    """A command whose libraries print at every level."""

    json: bool = False

    def run(self) -> Answer:
        """Print through Python, through the file descriptor and from a child process."""
        sys.stdout.write("python prints\n")
        os.write(1, b"the descriptor is written to\n")
        subprocess.run([sys.executable, "-c", "print('a child prints')"], check=True)
        return Answer(data={"answer": 42, "not_a_number": float("nan")}, text="forty-two")


@dataclass(frozen=True)
class Failing:
    """A command that ends in an error."""

    json: bool = False
    error: Callable[[], BaseException] = lambda: VddError("got X, expected Y, do Z")

    def run(self) -> Answer:
        """Raise it."""
        sys.stdout.write("half an answer\n")
        raise self.error()


def test_all_commands_are_there() -> None:
    """The names are those of the documentation."""
    assert set(COMMANDS) == {
        "doctor", "demo", "train-teacher", "distill", "evaluate", "export", "inspect", "bench",
        "compare", "study", "diagnose", "toys", "audit", "from-bag", "dry-run",
        "contract", "torture",
    }  # fmt: skip


@pytest.mark.parametrize(
    "command", [*sorted({*COMMANDS} - {"contract"}), "contract check", "contract from-bag"]
)
def test_every_command_explains_itself_and_each_option(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Help goes to standard output with exit status 0 and has words for every option."""
    assert cli.main([*command.split(), "--help"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert f"usage: vdd {command}" in captured.out
    assert "--json" in captured.out
    flat = " ".join(captured.out.translate(dict.fromkeys(map(ord, "│╭╮╰╯─"))).split())
    wordless = re.findall(r"--[\w-]+(?: [A-Z]+| \{\S+\})? \((?:default|optional|required)", flat)
    assert wordless == [], "options that nothing is said about"


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_the_list_of_commands_is_shown(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a command, or asked for help, every command is named."""
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert all(command in out for command in COMMANDS)


def test_help_is_there_at_once(vdd: Vdd) -> None:
    """Showing help loads neither numpy nor anything heavier."""
    code = (
        "import sys; from vdd_ros.cli.main import main; code = main(['--help']);"
        "heavy = {'numpy', 'onnxruntime', 'torch', 'rclpy', 'matplotlib'} & set(sys.modules);"
        "sys.exit(f'loaded {heavy}' if heavy else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_the_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    """`vdd --version` names package and version."""
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"vdd_ros {__version__}\n"


@pytest.mark.parametrize(
    ("words", "suggestion"),
    [
        (["distil"], "did you mean 'distill'?"),
        (["train_teacher"], "did you mean 'train-teacher'?"),
        (["evaluate", "a.onnx", "--rolouts", "3"], "--rollouts"),
        (["demo", "--jsn"], "--json"),
    ],
)
def test_a_misspelt_word_is_answered_with_the_nearest_right_one(
    words: list[str], suggestion: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2, the suggestion on standard error, nothing on standard output."""
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert suggestion in captured.err


def test_json_is_alone_on_standard_output(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever libraries, C code and children print is on standard error; NaN becomes null."""
    monkeypatch.setitem(cli.COMMANDS, "talk", Talkative)
    assert cli.main(["talk", "--json"]) == 0
    captured = capfd.readouterr()
    assert json.loads(captured.out) == {"answer": 42, "not_a_number": None}
    for voice in ("python prints", "the descriptor", "a child prints"):
        assert voice in captured.err


def test_standard_output_works_again_afterwards(capfd: pytest.CaptureFixture[str]) -> None:
    """The redirection ends with its block, also when the block fails."""
    with pytest.raises(ValueError, match="boom"), standard_output_to_error():
        raise ValueError("boom")
    sys.stdout.write("back\n")
    sys.stdout.flush()
    os.write(1, b"here\n")
    assert capfd.readouterr().out == "back\nhere\n"


@pytest.mark.parametrize("json_flag", [[], ["--json"]])
def test_a_user_error_is_one_message_and_exit_status_2(
    json_flag: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The message stands on standard error, without a traceback; standard output stays empty."""
    monkeypatch.setitem(cli.COMMANDS, "fail", Failing)
    assert cli.main(["fail", *json_flag]) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == "half an answer\nvdd: got X, expected Y, do Z\n"


def test_an_interrupt_is_exit_status_130(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends quietly with the status shells expect."""

    @dataclass(frozen=True)
    class Interrupted(Failing):
        """Interrupted by the user."""

        error: Callable[[], BaseException] = KeyboardInterrupt

    monkeypatch.setattr(cli, "_parse", lambda _words: Interrupted())
    assert cli.main(["anything"]) == 130


def test_a_reader_that_leaves_early_causes_no_traceback() -> None:
    """`vdd --help | head -1` ends quietly."""
    done = subprocess.run(
        ["bash", "-c", f"'{sys.executable}' -m vdd_ros --help | head -1"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "usage: vdd" in done.stdout
    assert "Traceback" not in done.stderr


def test_tables_align_their_columns() -> None:
    """Words stand left, figures right, under a rule as wide as the table."""
    text = table([("a", "1"), ("long name", "1234")], header=("what", "n"))
    assert text.splitlines() == [
        "what          n",
        "---------------",
        "a             1",
        "long name  1234",
    ]


@pytest.mark.parametrize("text", ["", "x", "4;16", "0", "4,-1", "1.5", ","])
def test_a_list_of_numbers_names_its_option_when_it_is_wrong(text: str) -> None:
    """What came, what was expected, and an example."""
    with pytest.raises(VddError, match=r"--nfe: got .* for example 4,16"):
        whole_numbers(text, option="--nfe")


def test_a_list_of_numbers_may_hold_spaces() -> None:
    """Both ways of typing a list give the same numbers."""
    assert whole_numbers("4,16", option="--nfe") == whole_numbers(" 4, 16", option="--nfe")


def test_options_are_shown_as_they_would_be_typed() -> None:
    """The line parses back to the same options, so that it can be copied as it is."""
    options = Distill(teacher=Path("runs/a teacher"), method="em-teacher", seed=3)
    line = as_typed("distill", options, resume=True)
    assert line == ("vdd distill --seed 3 --resume --teacher 'runs/a teacher' --method em-teacher")


@pytest.mark.parametrize(
    ("redirection", "code"), [(">&-", 0), (">/dev/full", 2), ("2>&-", 0), (">/dev/null", 0)]
)
def test_a_closed_or_full_output_is_no_traceback(
    redirection: str, code: int, tmp_path: Path
) -> None:
    """Whatever standard output and error are tied to, the exit status tells how it went."""
    program = (
        "import sys; from dataclasses import dataclass; from vdd_ros.cli import main as cli;"
        "from tests.cli.test_main import Talkative; cli.COMMANDS['talk'] = Talkative;"
        "sys.exit(cli.main(['talk', '--json']))"
    )
    done = subprocess.run(
        ["bash", "-c", f"exec '{sys.executable}' -c \"{program}\" {redirection}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


def test_sigterm_ends_a_command_in_order(tmp_path: Path) -> None:
    """What the command opened is closed (here: a file is written at the end), exit status 143."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, pathlib, threading\n"
        "from dataclasses import dataclass\n"
        "from vdd_ros.cli import main as cli\n"
        "@dataclass(frozen=True)\n"
        "class Waiting:\n"
        "    'Waits for ever.'\n"
        "    json: bool = False\n"
        "    'Not used.'\n"
        "    def run(self):\n"
        "        try:\n"
        "            print('waiting', flush=True)\n"
        "            threading.Event().wait()\n"
        "        finally:\n"
        "            pathlib.Path('closed').touch()\n"
        "cli.COMMANDS['wait'] = Waiting\n"
        "sys.exit(cli.main(['wait']))\n",
        encoding="utf-8",
    )
    process = subprocess.Popen(
        [sys.executable, program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "waiting\n"
    process.terminate()
    assert process.wait(timeout=30) == 143
    process.stderr.close()
    assert (tmp_path / "closed").exists()
