"""The `vdd` command: reads the options, runs one subcommand, prints its answer.

Exit status: 0 done, 1 a check failed (`vdd doctor`), 2 something the user can fix (one message on
standard error), 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import tyro

from vdd_ros import __version__
from vdd_ros.cli.audit import Audit
from vdd_ros.cli.bench import Bench
from vdd_ros.cli.command import Command, open_standard_streams, say, standard_output_to_error
from vdd_ros.cli.compare import Compare
from vdd_ros.cli.contract import Contract
from vdd_ros.cli.demo import Demo
from vdd_ros.cli.diagnose import Diagnose
from vdd_ros.cli.distill import Distill
from vdd_ros.cli.doctor import Doctor
from vdd_ros.cli.dry_run import DryRun
from vdd_ros.cli.evaluate import Evaluate
from vdd_ros.cli.export import Export
from vdd_ros.cli.from_bag import FromBag
from vdd_ros.cli.inspect import Inspect
from vdd_ros.cli.study import Study
from vdd_ros.cli.torture import Torture
from vdd_ros.cli.toys import Toys
from vdd_ros.cli.train import TrainTeacher
from vdd_ros.core.errors import VddError, did_you_mean

COMMANDS: dict[str, type[Command]] = {
    "doctor": Doctor,
    "demo": Demo,
    "train-teacher": TrainTeacher,
    "distill": Distill,
    "evaluate": Evaluate,
    "export": Export,
    "inspect": Inspect,
    "audit": Audit,
    "bench": Bench,
    "compare": Compare,
    "contract": Contract,
    "diagnose": Diagnose,
    "from-bag": FromBag,
    "dry-run": DryRun,
    "study": Study,
    "toys": Toys,
    "torture": Torture,
}
_ABOUT = (
    "Distils a diffusion policy into a Mixture of Experts that needs one network pass per action, "
    "and runs both on a ROS 2 robot. From demonstrations: train-teacher, distill, export, "
    "evaluate. With the shipped models: demo, bench, compare, inspect."
)
_INTERRUPTED = 130
_TERMINATED = 143


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    Args:
        argv: the words after `vdd`; those of the process by default.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    open_standard_streams()
    try:
        if words in (["--version"], ["-V"]):
            print(f"vdd_ros {__version__}", flush=True)
            return 0
        return _run(_parse(words or ["--help"]))
    except VddError as error:
        say(f"vdd: {error}")
        return 2
    except KeyboardInterrupt:
        say("vdd: interrupted")
        return _INTERRUPTED
    except BrokenPipeError:  # whoever read our output has gone: there is nobody left to tell
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except SystemExit as stop:  # the parser has said what it had to: help, or what is wrong
        return stop.code if isinstance(stop.code, int) else 2


def _parse(words: list[str]) -> Command:
    name, *rest = words
    config = (tyro.conf.FlagCreatePairsOff,)
    if name in COMMANDS:
        return tyro.cli(COMMANDS[name], prog=f"vdd {name}", args=rest, config=config)
    if not name.startswith("-"):
        raise VddError(f"unknown command '{name}'{did_you_mean(name, COMMANDS)}")
    choice: Any = None
    for command, options in COMMANDS.items():
        # The list shows the first sentence; `vdd COMMAND --help` shows the rest.
        about = inspect.cleandoc(options.__doc__ or "").split("\n\n")[0]
        described = tyro.conf.subcommand(command, description=about)
        one: Any = Annotated[options, described]  # type: ignore[valid-type]
        choice = one if choice is None else choice | one
    parsed: Command = tyro.cli(choice, prog="vdd", args=words, description=_ABOUT, config=config)
    return parsed


def _run(command: Command) -> int:
    from vdd_ros.core.config_io import dump_json

    with standard_output_to_error(), _terminable():
        answer = command.run()
        output = dump_json(answer.data) if command.json else answer.text
    try:
        print(output)
        for line in answer.next_commands:
            # The object of --json stands alone on standard output.
            print(f"next: {line}", file=sys.stderr if command.json else sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        sys.stdout = None  # type: ignore[assignment] # or Python tries again at exit
        raise VddError(f"standard output cannot be written ({error.strerror})") from None
    return answer.exit_code


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the command in order: whatever it started is stopped, files are whole."""

    def stop(_number: int, _frame: object) -> None:
        raise SystemExit(_TERMINATED)

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: whoever called us owns the signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
