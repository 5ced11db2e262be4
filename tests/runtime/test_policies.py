"""Student and teacher on the robot side, against numpy twins and closed forms."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tests.policy_files import DenoiserTwin, MoeTwin, make_contract, make_denoiser_file, save
from vdd_ros.core.errors import VddError
from vdd_ros.core.gating import ExpertSelector, SelectionSettings
from vdd_ros.core.samplers import SamplerKind, sample
from vdd_ros.core.schedules import ScheduleKind, sigma_schedule
from vdd_ros.runtime.diffusion_policy import VARIANTS, DiffusionPolicy, DiffusionSettings, Variant
from vdd_ros.runtime.loading import load_policy
from vdd_ros.runtime.moe_policy import MoePolicy
from vdd_ros.runtime.policy import Policy
from vdd_ros.runtime.policy_file import PolicyFile


def windows(n: int, *, seed: int = 0) -> np.ndarray:
    """Return observation windows [n, 2, 3]."""
    return np.random.default_rng(seed).standard_normal((n, 2, 3)).astype(np.float32)


def moe_policy(path: Path, **selection: object) -> MoePolicy:
    """Open a student with selection settings."""
    policy = load_policy(path, selection=SelectionSettings(**selection))  # type: ignore[arg-type]
    assert isinstance(policy, MoePolicy)
    return policy


def diffusion_policy(path: Path, **settings: object) -> DiffusionPolicy:
    """Open a teacher with sampler settings."""
    policy = load_policy(path, diffusion=DiffusionSettings(**settings))  # type: ignore[arg-type]
    assert isinstance(policy, DiffusionPolicy)
    return policy


@pytest.mark.parametrize("fixture", ["moe", "dense_moe"])
def test_student_equals_its_numpy_twin(fixture: str, request: pytest.FixtureRequest) -> None:
    """Proposals, gate and chosen action are those of the same map in numpy, in raw units."""
    twin: MoeTwin = request.getfixturevalue(fixture)
    policy = moe_policy(twin.path, seed=5)
    selector = ExpertSelector(SelectionSettings(seed=5), twin.n_experts)
    for window in windows(50):
        output = policy.act(window)
        expected = twin.outputs(window[None])
        assert_allclose(output.proposals, expected["expert_actions"][0], atol=2e-6)
        logits = expected["gating_logits"][0].astype(np.float64)
        gate = np.exp(logits - logits.max())
        assert_allclose(output.gate, gate / gate.sum(), atol=1e-6)
        assert output.expert == selector.select(expected["gating_logits"])[0]
        assert_array_equal(output.action, output.proposals[output.expert])


def test_single_and_batch_paths_agree(moe: MoeTwin) -> None:
    """A batch decides for every row what the single path decides for that row."""
    batch, single = moe_policy(moe.path, rule="argmax"), moe_policy(moe.path, rule="argmax")
    actions, experts = batch.act_batch(windows(20))
    assert actions.shape == (20, 2, 2)
    for window, action, expert in zip(windows(20), actions, experts, strict=True):
        output = single.act(window)
        assert output.expert == expert
        assert_allclose(output.action, action, atol=1e-6)


@pytest.mark.parametrize("rule", ["sample", "sticky"])
def test_a_seed_replays_bit_for_bit(moe: MoeTwin, rule: str) -> None:
    """The same seed and observations give the same actions; reset(seed) rewinds to it."""
    first, second = (moe_policy(moe.path, rule=rule, seed=11) for _ in range(2))
    runs = []
    for policy in (first, second, first):
        policy.reset(seed=11)
        runs.append([policy.act(w).action.copy() for w in windows(60)])
    assert_array_equal(runs[0], runs[1])
    assert_array_equal(runs[0], runs[2])
    other = moe_policy(moe.path, rule=rule, seed=12)
    assert not np.array_equal(runs[0], [other.act(w).action.copy() for w in windows(60)])


@pytest.mark.parametrize("kind", ["moe", "denoiser"])
def test_opening_leaves_the_random_stream_untouched(
    kind: str, request: pytest.FixtureRequest
) -> None:
    """The decision taken to warm up draws nothing that a replay would miss."""
    policy = load_policy(request.getfixturevalue(kind).path)
    fresh = [policy.act(w).action.copy() for w in windows(30)]
    policy.reset(seed=0)
    assert_array_equal(fresh, [policy.act(w).action.copy() for w in windows(30)])


def test_a_pinned_expert_always_acts(moe: MoeTwin) -> None:
    policy = moe_policy(moe.path, rule="pinned", pinned_expert=2)
    assert {policy.act(w).expert for w in windows(20)} == {2}
    with pytest.raises(VddError, match="experts 0 to 3"):
        moe_policy(moe.path, rule="pinned", pinned_expert=4)


def test_acting_reuses_its_memory(moe: MoeTwin) -> None:
    """Outputs are views into fixed arrays, as documented: a tick allocates no action."""
    policy = moe_policy(moe.path)
    first = policy.act(windows(1)[0])
    second = policy.act(windows(1, seed=1)[0])
    assert first.proposals is second.proposals
    assert np.shares_memory(second.action, second.proposals)


def test_values_that_are_not_finite_are_handed_on(moe: MoeTwin) -> None:
    """The runtime hides nothing: a NaN observation gives NaN, for the safety ladder to see."""
    policy = moe_policy(moe.path)
    with np.errstate(invalid="ignore"):
        output = policy.act(np.full((2, 3), np.nan, np.float32))
    assert np.isnan(output.action).all()
    assert 0 <= output.expert < 4
    assert np.isfinite(policy.act(windows(1)[0]).action).all()


@pytest.mark.parametrize("shape", [(3,), (1, 3), (2, 4), (1, 2, 3)])
def test_a_window_of_another_shape_is_a_programming_error(
    moe: MoeTwin, denoiser: DenoiserTwin, shape: tuple[int, ...]
) -> None:
    """Broadcasting would act on a made-up history; the shape must be exact."""
    for policy in (moe_policy(moe.path), diffusion_policy(denoiser.path)):
        with pytest.raises(ValueError, match="window: shape"):
            policy.act(np.zeros(shape, np.float32))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("n_steps", [1, 4, 16])
def test_euler_has_its_closed_form_on_a_gaussian(
    denoiser: DenoiserTwin, variant: Variant, n_steps: int
) -> None:
    """For N(m, s^2) every Euler step is linear, so the sampled action is known exactly."""
    policy = diffusion_policy(denoiser.path, n_steps=n_steps, variant=variant, seed=3)
    rng = np.random.default_rng(3)
    for window in windows(10):
        noise = rng.standard_normal((1, 2, 2), dtype=np.float32)
        expected = denoiser.euler(noise, window[None], n_steps, "exponential")[0]
        output = policy.act(window)
        assert_allclose(output.action, expected, atol=1e-5)
        assert output.expert == -1
        assert output.gate.shape == (0,)
        assert output.proposals.shape == (0, 2, 2)


@pytest.mark.parametrize("schedule", ["linear", "exponential", "karras"])
def test_loop_bound_and_unrolled_are_one_sampler(tmp_path: Path, schedule: ScheduleKind) -> None:
    """The three variants differ in time only: same seed, same actions to rounding."""
    twin = make_denoiser_file(tmp_path / "t.onnx", schedule=schedule, unroll=[4], width=16)
    runs = []
    for variant in VARIANTS:
        policy = diffusion_policy(twin.path, n_steps=4, variant=variant)
        assert policy.variant == variant
        runs.append([policy.act(w).action.copy() for w in windows(20)])
    assert_array_equal(runs[0], runs[1])
    assert_allclose(runs[0], runs[2], atol=2e-6)


@pytest.mark.parametrize("sampler", ["euler", "heun", "ddim", "dpmpp_2m", "euler_ancestral"])
@pytest.mark.parametrize("variant", ["loop", "bound"])
def test_every_sampler_equals_the_core_sampler(
    denoiser: DenoiserTwin, sampler: SamplerKind, variant: Variant
) -> None:
    """The policy is core/samplers.py over the twin's denoiser, also for multistep samplers.

    Regressions pinned: DPM-Solver++ looks at the previous denoised value, which one reused
    output array would have overwritten.
    """
    policy = diffusion_policy(
        denoiser.path, n_steps=6, sampler=sampler, schedule="karras", variant=variant, seed=8
    )
    rng = np.random.default_rng(8)
    sigmas = sigma_schedule("karras", n_steps=6, sigma_min=0.01, sigma_max=2.0)
    for window in windows(5):
        noise = rng.standard_normal((1, 2, 2), dtype=np.float32)
        end = sample(
            sampler,
            lambda x, sigma: denoiser.denoise(x, sigma, window[None]),  # noqa: B023
            noise * np.float32(sigmas[0]),
            sigmas.tolist(),
            noise=lambda: rng.standard_normal((1, 2, 2), dtype=np.float32),
        )
        expected = end[0] * denoiser.scale + denoiser.offset
        assert_allclose(policy.act(window).action, expected, atol=1e-5)


def test_samples_have_the_gaussians_moments(denoiser: DenoiserTwin) -> None:
    """Many steps from wide noise reach the distribution the denoiser belongs to."""
    policy = diffusion_policy(denoiser.path, n_steps=60, sampler="heun")
    window = windows(1)
    action, expert = policy.act_batch(np.repeat(window, 20000, axis=0))
    assert_array_equal(expert, -1)
    normalised = (action - denoiser.offset) / denoiser.scale
    # Noise starts at sigma 2 around 0 instead of around m: exp(-log) leaves s / 2 of the mean.
    shrink = denoiser.deviation / np.hypot(denoiser.deviation, 2.0)
    mean = denoiser.mean(window)[0] * (1 - shrink)
    assert_allclose(normalised.mean(0), mean, atol=0.02)
    assert_allclose(normalised.std(0), 2.0 * shrink, rtol=0.03)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_batch_of_one_is_a_single_decision(denoiser: DenoiserTwin, variant: Variant) -> None:
    """Act and act_batch draw the same noise; reset(seed) rewinds it."""
    policy = diffusion_policy(denoiser.path, n_steps=4, variant=variant)
    singles = [policy.act(w).action.copy() for w in windows(5)]
    policy.reset(seed=0)
    batches = [policy.act_batch(w[None])[0][0] for w in windows(5)]
    assert_allclose(singles, batches, atol=1e-6)


def test_auto_takes_the_unrolled_sampler_where_the_file_holds_it(denoiser: DenoiserTwin) -> None:
    """Auto never changes what is sampled: other steps, samplers and schedules run bound."""
    assert diffusion_policy(denoiser.path, n_steps=16).variant == "unrolled"
    assert diffusion_policy(denoiser.path, n_steps=16, sampler="ddim").variant == "unrolled"
    assert diffusion_policy(denoiser.path, n_steps=64).variant == "bound"
    assert diffusion_policy(denoiser.path, n_steps=16, sampler="heun").variant == "bound"
    assert diffusion_policy(denoiser.path, n_steps=16, schedule="linear").variant == "bound"
    with pytest.raises(VddError, match=r"holds no unrolled heun sampler of 16 steps"):
        diffusion_policy(denoiser.path, n_steps=16, sampler="heun", variant="unrolled")
    with pytest.raises(VddError, match="variant: got 'fast'; known"):
        diffusion_policy(denoiser.path, variant="fast")
    with pytest.raises(VddError, match="n_steps: got 0"):
        diffusion_policy(denoiser.path, n_steps=0)


def test_nfe_counts_network_passes(denoiser: DenoiserTwin) -> None:
    assert diffusion_policy(denoiser.path, n_steps=16).nfe == 16
    assert diffusion_policy(denoiser.path, n_steps=16, sampler="heun").nfe == 31


def test_a_file_made_for_one_step_is_given_one(denoiser: DenoiserTwin, tmp_path: Path) -> None:
    """A consistency model: no other number is accepted, and nobody has to ask for this one."""
    path = denoiser.save_as(
        tmp_path / "one.onnx", provenance={**denoiser.provenance, "n_steps": 1, "method": "cd"}
    )
    policy = load_policy(path)
    assert (policy.nfe, policy.variant) == (1, "unrolled")
    window = np.ones((denoiser.contract.n_obs_steps, denoiser.contract.dim_obs), np.float32)
    noise = np.random.default_rng(0).standard_normal(policy.act(window).action.shape, np.float32)
    policy.reset(0)
    expected = denoiser.euler(noise[None], window[None], 1, "exponential")[0]
    assert_allclose(policy.act(window).action, expected, atol=1e-5)
    with pytest.raises(VddError, match=r"a cd that acts with 1 sampler step.*, got 16; set nfe"):
        diffusion_policy(path, n_steps=16)
    for wrong in (0, 1.0, "1", True):
        broken = {**denoiser.provenance, "n_steps": wrong}
        with pytest.raises(VddError, match="n_steps: got"):
            load_policy(denoiser.save_as(tmp_path / "broken.onnx", provenance=broken))
    assert load_policy(denoiser.path).nfe == 16


def test_a_file_without_unrolled_samplers_still_samples(tmp_path: Path) -> None:
    twin = make_denoiser_file(tmp_path / "t.onnx", unroll=[])
    policy = diffusion_policy(twin.path, n_steps=4, seed=1)
    noise = np.random.default_rng(1).standard_normal((1, 2, 2), dtype=np.float32)
    expected = twin.euler(noise, windows(1), 4, "exponential")[0]
    assert_allclose(policy.act(windows(1)[0]).action, expected, atol=1e-5)


def test_each_class_refuses_the_other_kind(moe: MoeTwin, denoiser: DenoiserTwin) -> None:
    with pytest.raises(VddError, match="holds a denoiser, expected a mixture"):
        MoePolicy(PolicyFile.open(denoiser.path))
    with pytest.raises(VddError, match="holds a moe, expected a denoiser"):
        DiffusionPolicy(PolicyFile.open(moe.path))


def test_both_kinds_are_policies(moe: MoeTwin, denoiser: DenoiserTwin) -> None:
    """Whatever the file holds, nodes and evaluation see the same interface."""
    policies: list[Policy] = [load_policy(moe.path), load_policy(denoiser.path)]
    for policy in policies:
        assert policy.provider == "cpu"
        assert policy.contract == policy.file.contract
        assert "cpu" in policy.description
        assert policy.act(windows(1)[0]).action.shape == (2, 2)
    assert [p.n_experts for p in policies] == [4, 0]


def test_long_windows_and_chunks_keep_their_order(tmp_path: Path) -> None:
    """Nothing is transposed on the way for sizes that all differ."""
    contract = make_contract(n_obs_steps=5, dim_obs=4, horizon=3, dim_act=2)
    twin = make_denoiser_file(tmp_path / "t.onnx", contract=contract, unroll=[4])
    window = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    noise = np.random.default_rng(0).standard_normal((1, 3, 2), dtype=np.float32)
    expected = twin.euler(noise, window[None], 4, "exponential")[0]
    for variant in VARIANTS:
        policy = diffusion_policy(twin.path, n_steps=4, variant=variant)
        assert_allclose(policy.act(window).action, expected, atol=1e-5)


def test_a_constant_network_is_opened_too(moe: MoeTwin, tmp_path: Path) -> None:
    """Opening does not depend on the batch size the golden sample happens to have."""
    golden = {
        "inputs": {"observation": {"shape": [1, 2, 3], "data": [0.0] * 6}},
        "outputs": {
            "gating_logits": {"shape": [1, 4], "data": [0.0] * 4},
            "expert_actions": {"shape": [1, 4, 2, 2], "data": [0.0] * 16},
        },
        "atol": 1e-6,
    }
    path = save(
        tmp_path / "m.onnx",
        moe.model,
        contract=moe.contract,
        provenance=moe.provenance,
        golden=golden,
    )
    assert load_policy(path).act(np.zeros((2, 3), np.float32)).action.tolist() == [[0, 0]] * 2


def test_the_robot_side_needs_no_training_library() -> None:
    """Importing and using the runtime loads neither torch, onnx nor rclpy."""
    code = (
        "import sys, vdd_ros.runtime.loading, vdd_ros.runtime.policy; "
        "print([m for m in ('torch', 'onnx', 'onnxscript', 'rclpy', 'matplotlib', 'vdd_ros.tasks')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.strip() == "[]"
