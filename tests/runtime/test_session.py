"""Sessions: providers by name, bindings that see what changes, and a measured choice."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tests.policy_files import MoeTwin
from vdd_ros.core.errors import VddError
from vdd_ros.runtime import session as session_module
from vdd_ros.runtime.loading import load_policy
from vdd_ros.runtime.policy_file import PolicyFile
from vdd_ros.runtime.session import (
    InferenceSession,
    SessionSettings,
    StagedBinding,
    available_providers,
    max_abs_error,
    open_session,
)

OUTPUTS = ("gating_logits", "expert_actions")


def test_a_missing_provider_is_named_with_those_that_are_there(moe: MoeTwin) -> None:
    missing = [p for p in ("cuda", "tensorrt") if p not in available_providers()]
    if not missing:
        pytest.skip("this build of onnxruntime has every provider")
    with pytest.raises(VddError, match=rf"'{missing[0]}' is not in this build.*has: .*cpu"):
        load_policy(moe.path, session=SessionSettings(provider=missing[0]))  # type: ignore[arg-type]


def test_auto_reports_what_it_tried_and_what_it_took(moe: MoeTwin) -> None:
    policy = load_policy(moe.path, session=SessionSettings(provider="auto"))
    assert policy.provider in available_providers()
    assert "auto: " in policy.description
    assert f"{policy.provider} " in policy.description


class _Slow(InferenceSession):
    """A stand-in provider list: 'cuda' falls back, 'tensorrt' gives wrong numbers."""

    def __init__(self, model: bytes, settings: SessionSettings) -> None:
        if settings.provider == "cuda":
            raise VddError("provider 'cuda' was asked for but onnxruntime runs on CPU")
        super().__init__(model, SessionSettings(provider="cpu"))
        self._wrong = settings.provider == "tensorrt"

    def run(self, inputs: Any, outputs: Any) -> list[Any]:
        found = super().run(inputs, outputs)
        return [f + 1 for f in found] if self._wrong else found


def test_auto_never_takes_a_provider_that_fails_the_golden_sample(
    moe: MoeTwin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider that falls back or computes something else is reported, not used."""
    monkeypatch.setattr(session_module, "InferenceSession", _Slow)
    monkeypatch.setattr(session_module, "available_providers", lambda: ("tensorrt", "cuda", "cpu"))
    choice = PolicyFile.open(moe.path, verify=False).session(
        OUTPUTS, SessionSettings(provider="auto")
    )
    assert "tensorrt failed (golden sample" in choice.reason
    assert "cuda failed (provider 'cuda' was asked for" in choice.reason
    assert choice.session.provider == "cpu"


def test_no_working_provider_is_an_error_that_lists_them(
    moe: MoeTwin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "InferenceSession", _Slow)
    monkeypatch.setattr(session_module, "available_providers", lambda: ("tensorrt", "cuda"))
    with pytest.raises(VddError, match=r"no provider runs this policy: tensorrt failed.*cuda"):
        PolicyFile.open(moe.path, verify=False).session(OUTPUTS, SessionSettings(provider="auto"))


def test_a_provider_that_falls_back_silently_is_refused(
    moe: MoeTwin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPU build lists CUDA and runs on the CPU without an error where no GPU is.

    Only what the session reports afterwards is believed.
    """
    real = ort.InferenceSession
    monkeypatch.setattr(
        ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(
        ort,
        "InferenceSession",
        lambda model, options, providers: real(model, options, providers=["CPUExecutionProvider"]),
    )
    with pytest.raises(VddError, match="onnxruntime runs on CPUExecutionProvider"):
        InferenceSession(moe.path.read_bytes(), SessionSettings(provider="cuda"))


@pytest.mark.parametrize("staged", [False, True])
def test_a_bound_run_reads_the_arrays_as_they_are_now(moe: MoeTwin, staged: bool) -> None:
    """Binding fixes where to read, not what: every run sees the latest observation.

    Regressions pinned: ONNX Runtime copies host inputs to a device when they are bound, so a
    device session bound once would act on the first observation for ever.
    """
    session = InferenceSession(moe.path.read_bytes(), SessionSettings())
    inputs = {"observation": np.zeros((1, 2, 3), np.float32)}
    outputs = {
        "gating_logits": np.zeros((1, 4), np.float32),
        "expert_actions": np.zeros((1, 4, 2, 2), np.float32),
    }
    if staged:
        # The CPU stands in for the device: the copies are the same, only the address differs.
        inner = ort.InferenceSession(moe.path.read_bytes(), providers=["CPUExecutionProvider"])
        binding: Any = StagedBinding(inner, inputs, outputs, device="cpu")
    else:
        binding = session.bind(inputs, outputs)
    for value in (1.0, -2.0, 0.5):
        inputs["observation"][...] = value
        binding.run()
        expected = moe.outputs(inputs["observation"])
        for name in OUTPUTS:
            assert_allclose(outputs[name], expected[name], atol=1e-5)


def test_only_arrays_that_can_be_bound_are_taken(moe: MoeTwin) -> None:
    """A float64 or strided array would be read as other numbers than it holds."""
    session = InferenceSession(moe.path.read_bytes(), SessionSettings())
    for wrong in (np.zeros((1, 2, 3)), np.zeros((1, 2, 6), np.float32)[..., ::2]):
        with pytest.raises(TypeError, match="C-contiguous float32"):
            session.bind({"observation": wrong}, {})


def test_sessions_start_no_threads(moe: MoeTwin) -> None:
    """One thread means the caller's: nothing spins or waits beside the control loop."""

    def count() -> int:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("Threads"))

    before = count()
    sessions = [InferenceSession(moe.path.read_bytes(), SessionSettings()) for _ in range(3)]
    assert count() == before
    assert len(sessions) == 3


def test_two_policies_run_beside_each_other(moe: MoeTwin) -> None:
    """Policies share nothing: two threads with one each get what they get alone."""
    window = np.ones((50, 2, 3), np.float32) * np.linspace(-1, 1, 50)[:, None, None]
    window = window.astype(np.float32)
    alone = [load_policy(moe.path).act(w).proposals.copy() for w in window]
    found: dict[int, list[Any]] = {}

    def run(index: int) -> None:
        policy = load_policy(moe.path)
        found[index] = [policy.act(w).proposals.copy() for w in window]

    threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(2):
        assert_array_equal(found[index], alone)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"provider": "gpu"}, "provider: got 'gpu'; known: cpu, cuda, tensorrt, auto"),
        ({"n_threads": 0}, "n_threads: got 0"),
        ({"warm_up_runs": -1}, "warm_up_runs: got -1"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(VddError, match=message):
        SessionSettings(**settings)


def test_error_is_infinite_where_a_comparison_makes_no_sense() -> None:
    """A NaN or a shape that broadcasts must never pass as agreement."""
    one = np.ones((2, 2), np.float32)
    assert max_abs_error(one, one + 0.25) == pytest.approx(0.25)
    assert max_abs_error(one * np.nan, one) == float("inf")
    assert max_abs_error(one[:1], one) == float("inf")


def test_warm_up_runs_the_network(moe: MoeTwin, monkeypatch: pytest.MonkeyPatch) -> None:
    """The asked number of runs happens before the first real one."""
    runs: list[int] = []
    bind = InferenceSession.bind

    def counting(self: InferenceSession, inputs: Any, outputs: Any) -> Any:
        binding = bind(self, inputs, outputs)
        real = binding.run
        monkeypatch.setattr(
            type(binding), "run", lambda _: (runs.append(1), real())[1], raising=True
        )
        return binding

    monkeypatch.setattr(InferenceSession, "bind", counting)
    file = PolicyFile.open(moe.path, verify=False)
    open_session(
        file.model,
        SessionSettings(warm_up_runs=7),
        sample_inputs=file.golden.inputs,
        sample_outputs=file.golden.outputs,
        atol=file.golden.atol,
    )
    assert len(runs) == 7
