"""The loop every method shares: steps, progress, figures, checkpoints, Ctrl-C, exact resume.

What is particular to a method stands behind the small protocol `Trainable`. A resumed run equals
an uninterrupted one bit for bit: minibatches, dropout and noise all come from torch's generator,
whose state is part of the checkpoint, and learning rates and sigmas are functions of the
iteration.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from vdd_ros.core.errors import VddError
from vdd_ros.distill.training import checkpoint
from vdd_ros.distill.training.progress import make_progress
from vdd_ros.distill.training.tracking import JsonLinesWriter, LogWriter

# Lines of metrics.jsonl per run: enough for a learning curve, few enough to read.
_N_LOG_LINES = 200


@dataclass(frozen=True)
class LoopSettings:
    """How the loop runs; no influence on what it computes."""

    checkpoint_every_s: float = 30.0
    """Seconds between checkpoints."""
    progress_every_s: float = 5.0
    """Seconds between progress lines where there is no terminal."""
    n_threads: int = 1
    """Threads of torch. These networks are too small to gain from more."""


@runtime_checkable
class Trainable(Protocol):
    """A training method, seen from the loop."""

    n_iters: int
    """Iterations in all."""
    teacher_queries: int
    """Denoiser evaluations so far, one per action."""

    def parts(self) -> dict[str, nn.Module]:
        """Networks whose weights change, by name."""
        ...

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Optimisers by name."""
        ...

    def acting(self) -> nn.Module:
        """The network that is the result."""
        ...

    def step(self, iteration: int) -> Mapping[str, Tensor | float]:
        """Do iteration ``iteration`` (from 0) and return its figures."""
        ...


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C was pressed; the run is saved and can be resumed. Exit code 130."""

    def __init__(self, folder: Path, iteration: int) -> None:
        super().__init__(f"stopped after iteration {iteration}; saved in {folder}")
        self.folder, self.iteration = folder, iteration


@contextlib.contextmanager
def reproducible(seed: int, n_threads: int) -> Iterator[None]:
    """Seed torch's generator for the block; afterwards generator and threads are as before."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(n_threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def train(
    method: Trainable,
    folder: Path,
    *,
    loop: LoopSettings,
    resume: bool,
    cpu_start_s: float,
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    evaluate_every: int = 0,
    writers: tuple[LogWriter, ...] = (),
    title: str = "training",
) -> float:
    """Run ``method`` to its last iteration and leave a complete run folder.

    Args:
        method: what to train.
        folder: the run folder; ``settings.json`` is already there.
        loop: how the loop runs.
        resume: continue from the checkpoint in ``folder`` if there is one.
        cpu_start_s: ``time.process_time()`` when preparation began, so that the cost of the
            preparation counts.
        evaluate: called with the acting network every ``evaluate_every`` iterations; its figures
            go to ``metrics.jsonl``.
        evaluate_every: iterations between evaluations; 0 for none.
        writers: further receivers of the figures.
        title: what the progress display says.

    Returns:
        Processor seconds of the whole training, over all resumed parts, evaluations left out.

    Raises:
        TrainingInterrupted: Ctrl-C; the state is saved.
        VddError: a loss that is not finite, a full disk, a foreign checkpoint.
    """
    start, cpu_before_s = _restore(method, folder) if resume else (0, 0.0)
    cpu_start_s -= cpu_before_s
    figures = JsonLinesWriter(folder / checkpoint.METRICS, keep_until=start)
    log_every = max(1, method.n_iters // _N_LOG_LINES)
    saved_at = time.monotonic()
    kept = start
    values: dict[str, float] = {}
    with (
        _catch_interrupt() as interrupted,
        make_progress(title, method.n_iters, every_s=loop.progress_every_s) as progress,
    ):
        for iteration in range(start, method.n_iters):
            raw = method.step(iteration)
            done = iteration + 1
            # Every iteration, not only those that are logged: the weights of a checkpoint in
            # between would be lost without a word.
            now = _finite(raw, done, folder, kept)
            if done % log_every == 0 or done == method.n_iters:
                values = now
                values["teacher_queries"] = float(method.teacher_queries)
                values["cpu_s"] = round(time.process_time() - cpu_start_s, 3)
                if evaluate is not None and evaluate_every and done % evaluate_every < log_every:
                    began_s = time.process_time()
                    values |= evaluate(method.acting())
                    # Judging is no part of training: what it took is not on the bill.
                    cpu_start_s += time.process_time() - began_s
                for writer in (figures, *writers):
                    writer.write(done, values)
            progress.update(done, values, method.teacher_queries)
            last = done == method.n_iters
            if last or interrupted() or time.monotonic() - saved_at > loop.checkpoint_every_s:
                _require_finite_weights(method, done, folder, kept)
                _save(method, folder, done, time.process_time() - cpu_start_s)
                saved_at, kept = time.monotonic(), done
            if interrupted() and not last:
                raise TrainingInterrupted(folder, done)
    return time.process_time() - cpu_start_s


def _finite(
    raw: Mapping[str, Tensor | float], iteration: int, folder: Path, kept: int
) -> dict[str, float]:
    values = {name: float(value) for name, value in raw.items()}
    for name, value in values.items():
        if not math.isfinite(value):
            raise _diverged(f"{name} is {value}", iteration, folder, kept)
    return values


def _require_finite_weights(method: Trainable, iteration: int, folder: Path, kept: int) -> None:
    """Refuse to save what the last step destroyed: its loss was taken before it."""
    for part, module in {**method.parts(), "result": method.acting()}.items():
        for name, weights in module.named_parameters():
            if not bool(weights.isfinite().all()):
                raise _diverged(
                    f"weight '{name}' of {part} is not finite", iteration, folder, kept
                )


def _diverged(what: str, iteration: int, folder: Path, kept: int) -> VddError:
    left = f"the checkpoint of iteration {kept} in {folder} is kept" if kept else "none was saved"
    return VddError(
        f"{what} at iteration {iteration}: training diverged; lower the learning rate, or raise "
        f"sigma_min or min_std; {left}"
    )


def _save(method: Trainable, folder: Path, iteration: int, cpu_s: float) -> None:
    tensors = {"rng": torch.get_rng_state(), "iteration": torch.tensor(iteration)}
    tensors["teacher_queries"] = torch.tensor(method.teacher_queries)
    tensors["cpu_s"] = torch.tensor(cpu_s, dtype=torch.float64)
    for name, module in method.parts().items():
        tensors |= {f"part.{name}.{k}": v for k, v in module.state_dict().items()}
    for name, optimizer in method.optimizers().items():
        entries = checkpoint.optimizer_tensors(optimizer)
        tensors |= {f"optimizer.{name}.{k}": v for k, v in entries.items()}
    checkpoint.write_tensors(folder / checkpoint.STATE, tensors)
    checkpoint.write_tensors(
        folder / checkpoint.WEIGHTS,
        method.acting().state_dict(),
        training_cpu_s=f"{cpu_s:.3f}",
        iteration=str(iteration),
        n_iters=str(method.n_iters),
    )


def _restore(method: Trainable, folder: Path) -> tuple[int, float]:
    path = folder / checkpoint.STATE
    if not path.exists():
        return 0, 0.0
    tensors, _ = checkpoint.read_tensors(path)
    try:
        for name, module in method.parts().items():
            module.load_state_dict(_under(tensors, f"part.{name}."))
        for name, optimizer in method.optimizers().items():
            checkpoint.restore_optimizer(optimizer, _under(tensors, f"optimizer.{name}."))
        method.teacher_queries = int(tensors["teacher_queries"])
        torch.set_rng_state(tensors["rng"])
        return int(tensors["iteration"]), float(tensors["cpu_s"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise VddError(
            f"{path}: does not belong to these settings ({str(error).splitlines()[0]}); resume "
            "with the settings of the run, or choose another folder"
        ) from None


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


@contextlib.contextmanager
def _catch_interrupt() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a question the loop asks; the second one is immediate."""
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return
    before = signal.getsignal(signal.SIGINT)

    def remember(_signal: int, _frame: FrameType | None) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, remember)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)
