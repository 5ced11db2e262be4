"""One ONNX model, ready to run at control rate.

One thread and no spinning by default: on two cores ONNX Runtime's own defaults burn 92 % of a
CPU between ticks and their 99th percentile is five times worse. Inputs and outputs are bound once
to fixed arrays, so that a run allocates nothing.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from vdd_ros.core.errors import VddError

Array = NDArray[np.float32]
ProviderName = Literal["cpu", "cuda", "tensorrt", "auto"]

_PROVIDERS: dict[ProviderName, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_SMALLEST_SCALE = 1e-6  # outputs that are all zero still get float32's rounding
_FATAL = 4  # ONNX Runtime's log level: failures come as exceptions, not as lines on stderr


@dataclass(frozen=True)
class SessionSettings:
    """How ONNX Runtime runs the network."""

    provider: ProviderName = "cpu"
    """cpu, cuda, tensorrt, or auto: the fastest one here that reproduces the golden sample."""
    n_threads: int = 1
    """Threads for one pass. More than one rarely pays for networks this small."""
    spinning: bool = False
    """Threads wait by spinning: a little faster back to back, a whole core lost at any rate."""
    warm_up_runs: int = 20
    """Runs before the first real one; they also compile kernels on a GPU."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        known = [*_PROVIDERS, "auto"]
        if self.provider not in known:
            raise VddError(f"provider: got '{self.provider}'; known: {', '.join(known)}")
        if self.n_threads < 1:
            raise VddError(f"n_threads: got {self.n_threads}, expected at least 1")
        if self.warm_up_runs < 0:
            raise VddError(f"warm_up_runs: got {self.warm_up_runs}, expected 0 or more")


class Binding(Protocol):
    """Fixed arrays tied to a session; `run` reads the inputs and fills the outputs."""

    def run(self) -> None:
        """Run the network once."""
        ...


class InferenceSession:
    """A model on one named provider."""

    def __init__(self, model: bytes, settings: SessionSettings) -> None:
        """Load the model; ``settings.provider`` must be a definite one, not ``auto``.

        Raises:
            VddError: the provider is not there, or ONNX Runtime refuses the model.
        """
        asked = _PROVIDERS.get(settings.provider)
        if asked is None:
            raise VddError("provider 'auto' is resolved by open_session, not by a session")
        if asked not in ort.get_available_providers():
            raise VddError(
                f"provider '{settings.provider}' is not in this build of onnxruntime (it has: "
                f"{', '.join(available_providers())}); install onnxruntime-gpu in place of "
                "onnxruntime, or use provider cpu or auto"
            )
        try:
            self._session = ort.InferenceSession(
                model, _session_options(settings), providers=_provider_list(asked)
            )
        except Exception as error:
            # ONNX Runtime's exceptions share no base class below Exception.
            raise VddError(
                f"onnxruntime {ort.__version__} refuses the model ({_first_line(error)}); export "
                "it again, or install a newer onnxruntime"
            ) from None
        active = self._session.get_providers()[0]
        if active != asked:
            # The GPU build falls back without an error where the driver or a library is missing.
            raise VddError(
                f"provider '{settings.provider}' was asked for but onnxruntime runs on {active}: "
                "its driver or libraries are missing; see `vdd doctor`, or use provider cpu"
            )
        self.provider: str = settings.provider
        """The provider that really runs the model, as ONNX Runtime reports it."""
        self.input_names = tuple(i.name for i in self._session.get_inputs())
        self.output_names = tuple(o.name for o in self._session.get_outputs())

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Run once on any batch size; allocates the outputs."""
        result: list[Array] = self._session.run(list(outputs), dict(inputs))
        return result

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> Binding:
        """Tie C-contiguous float32 arrays to the session; shapes stay fixed from then on."""
        for name, array in {**inputs, **outputs}.items():
            if array.dtype != np.float32 or not array.flags.c_contiguous:
                raise TypeError(f"'{name}' must be a C-contiguous float32 array to be bound")
        if self.provider == "cpu":
            return _CpuBinding(self._session, inputs, outputs)
        return StagedBinding(self._session, inputs, outputs, device="cuda")


class _CpuBinding:
    """ONNX Runtime reads and writes the caller's own memory."""

    def __init__(
        self,
        session: Any,  # noqa: ANN401
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array],
    ) -> None:
        # ONNX Runtime keeps addresses only: without a reference the arrays could be freed.
        self._arrays = (*inputs.values(), *outputs.values())
        binding = session.io_binding()
        for name, array in inputs.items():
            binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        self._session, self._binding = session, binding

    def run(self) -> None:
        """Run the network once."""
        self._session.run_with_iobinding(self._binding)


class StagedBinding:
    """Fixed device memory; inputs are copied in before a run and outputs out after it.

    ONNX Runtime copies a host input to the device when it is BOUND, not when it runs: binding
    host arrays once would run on the first observation for ever.
    """

    def __init__(
        self,
        session: Any,  # noqa: ANN401
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array],
        *,
        device: str,
    ) -> None:
        """Allocate the device arrays and bind them."""

        def place(arrays: Mapping[str, Array]) -> list[tuple[Array, Any]]:
            return [(a, ort.OrtValue.ortvalue_from_numpy(a, device, 0)) for a in arrays.values()]

        self._inputs, self._outputs = place(inputs), place(outputs)
        self._session, self._binding = session, session.io_binding()
        for name, (_, value) in zip(inputs, self._inputs, strict=True):
            self._binding.bind_ortvalue_input(name, value)
        for name, (_, value) in zip(outputs, self._outputs, strict=True):
            self._binding.bind_ortvalue_output(name, value)

    def run(self) -> None:
        """Copy in, run, copy out."""
        for array, value in self._inputs:
            value.update_inplace(array)
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()
        for array, value in self._outputs:
            array[...] = value.numpy()


@dataclass(frozen=True)
class Choice:
    """The session to use and why."""

    session: InferenceSession
    """Verified and warmed up."""
    reason: str
    """One line for the log: what was asked, what was tried, what came out."""


def open_session(
    model: bytes,
    settings: SessionSettings,
    *,
    sample_inputs: Mapping[str, Array],
    sample_outputs: Mapping[str, Array],
    atol: float,
) -> Choice:
    """Open a session that reproduces a recorded sample, warmed up.

    With ``provider="auto"`` every provider of this machine is tried and timed on the model
    itself; the fastest that reproduces the sample wins.

    Args:
        model: an ONNX model whose inputs and outputs the sample names.
        settings: provider, threads, warm-up.
        sample_inputs: recorded inputs, batch first.
        sample_outputs: the outputs to reproduce.
        atol: largest error allowed for an output, as a share of its largest recorded value.

    Raises:
        VddError: the provider is missing, or no provider reproduces the sample.
    """
    names: tuple[ProviderName, ...] = (settings.provider,)
    if settings.provider == "auto":
        names = available_providers()
    tried: list[str] = []
    best: tuple[float, InferenceSession] | None = None
    for name in names:
        try:
            session = InferenceSession(model, dataclasses.replace(settings, provider=name))
            _verify(session, sample_inputs, sample_outputs, atol)
        except VddError as error:
            if settings.provider != "auto":
                raise
            tried.append(f"{name} failed ({error})")
            continue
        time_us = _warm_up(session, sample_inputs, sample_outputs, settings.warm_up_runs)
        tried.append(f"{name} {time_us:.0f} us")
        if best is None or time_us < best[0]:
            best = (time_us, session)
    if best is None:
        raise VddError(f"no provider runs this policy: {'; '.join(tried)}")
    return Choice(best[1], f"provider {settings.provider}: {', '.join(tried)}")


def available_providers() -> tuple[ProviderName, ...]:
    """Return the names of the providers this build of onnxruntime has, as settings spell them."""
    here = ort.get_available_providers()
    return tuple(name for name, full in _PROVIDERS.items() if full in here)


def max_abs_error(got: Array, expected: Array) -> float:
    """Return the largest absolute difference; infinite where a shape differs or a value is NaN."""
    if got.shape != expected.shape or not np.isfinite(got).all():
        return float("inf")
    return float(np.abs(got.astype(np.float64) - expected).max(initial=0.0))


def _verify(
    session: InferenceSession,
    inputs: Mapping[str, Array],
    outputs: Mapping[str, Array],
    atol: float,
) -> None:
    try:
        got = session.run(inputs, list(outputs))
    except Exception as error:
        raise VddError(
            f"the model does not run on its own golden sample ({_first_line(error)}); export it "
            "again"
        ) from None
    for found, (name, wanted) in zip(got, outputs.items(), strict=True):
        error_abs = max_abs_error(found, wanted)
        # Actions of a few millimetres and logits of fifty need each their own measure.
        allowed = atol * max(float(np.abs(wanted).max(initial=0.0)), _SMALLEST_SCALE)
        if not error_abs <= allowed:
            raise VddError(
                f"golden sample: output '{name}' on provider {session.provider} is off by "
                f"{error_abs:.3g}, expected at most {allowed:.3g}; the file is damaged or was "
                "changed after its export: export it again"
            )


def _warm_up(
    session: InferenceSession,
    inputs: Mapping[str, Array],
    outputs: Mapping[str, Array],
    n_runs: int,
) -> float:
    """Run one-row inputs as the control loop will; return the median time in microseconds."""
    one = {name: np.ascontiguousarray(a[:1]) for name, a in inputs.items()}
    binding = session.bind(one, {name: np.zeros_like(a[:1]) for name, a in outputs.items()})
    times = np.zeros(max(n_runs, 1))
    for i in range(len(times)):
        start = time.perf_counter_ns()
        binding.run()
        times[i] = time.perf_counter_ns() - start
    return float(np.median(times)) / 1000.0


def _session_options(settings: SessionSettings) -> Any:  # noqa: ANN401
    options = ort.SessionOptions()
    options.intra_op_num_threads = settings.n_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "1" if settings.spinning else "0"
    )
    # Without this, bytes that begin like ONNX Runtime's private format would be read as such.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    return options


def _provider_list(provider: str) -> list[Any]:
    # TF32 would cost three digits of parity; the rest saves launches on small networks.
    cuda = (_PROVIDERS["cuda"], {"use_tf32": "0", "do_copy_in_default_stream": "1"})
    if provider == _PROVIDERS["cuda"]:
        return [cuda]
    # TensorRT leaves the operators it does not know to the next provider.
    return [provider, cuda] if provider == _PROVIDERS["tensorrt"] else [provider]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
