"""Dry runs on bags of a real Unitree G1: ``python -m tests.evaluation.g1_dry_run RECORDING``.

Trains on 64 of the 80 teleoperated episodes and replays the other 16, which neither teacher nor
student has seen, through `vdd dry-run` as bags. Every step is a command that a user would give;
the table it prints stands in docs/robots.md.
"""

# ruff: noqa: T201 - the report is the output

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from vdd_ros.cli.main import main as vdd
from vdd_ros.core.config_io import dump_yaml, load_yaml
from vdd_ros.core.contract import PolicyContract
from vdd_ros.core.shipped import shipped_file
from vdd_ros.data.demonstrations import Demonstrations
from vdd_ros.data.npz import save_npz
from vdd_ros.data.offline import load_unitree_g1
from vdd_ros.data.to_bag import write_bag

HELD_OUT = 5
"""Every so-manieth episode is replayed instead of learnt from."""
NOISE = 0.05
"""On observations in training, in their deviations: two rows whose difference matters bear less
than the one of the shipped settings, which is told that difference."""


def contract() -> PolicyContract:
    """Return the shipped contract, for commands as differences from the measured joints."""
    made = load_yaml(PolicyContract, shipped_file("config/contracts/unitree_g1.yaml"))
    actions = tuple(dataclasses.replace(a, relative_to=a.measured) for a in made.actions)
    return dataclasses.replace(made, actions=actions, n_obs_steps=2, horizon=4, n_action_steps=1)


def split(path: Path) -> tuple[Demonstrations, Demonstrations]:
    """Return what is learnt from and what is replayed, as the contract's increments."""
    demos = load_unitree_g1(path)
    demos = dataclasses.replace(demos, action=demos.action - demos.observation)
    episodes = np.arange(demos.n_episodes)
    held_out = episodes % HELD_OUT == 0
    return demos.take(episodes[~held_out]), demos.take(episodes[held_out])


def settings(name: str, folder: Path, **changes: Any) -> Path:
    """Write shipped settings with changes; return the file."""
    raw = yaml.safe_load(shipped_file(f"config/{name}/g1_bottle.yaml").read_text())
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**raw, **changes, "noise": {"std": NOISE}}))
    return path


def run(*words: object) -> dict[str, Any]:
    """Run a command of `vdd` and return what it answers with ``--json``."""
    print("vdd", *words, file=sys.stderr, flush=True)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = vdd([*map(str, words), "--json"])
    if code != 0:
        raise SystemExit(f"vdd {words[0]} ended with {code}: {out.getvalue()}")
    answer: dict[str, Any] = json.loads(out.getvalue())
    return answer


def policies(folder: Path, train: Path, given: Path) -> dict[str, Path]:
    """Train, distil and export; what is there already is used."""
    files = {"student": folder / "student.onnx", "teacher": folder / "teacher.onnx"}
    if not files["teacher"].exists():
        config = settings("train", folder, n_obs_steps=2)
        run("train-teacher", "--config", config, "--data", train, "--out", folder / "teacher")
        run(
            *("export", folder / "teacher", "--contract", given, "--out", files["teacher"]),
            *("--rollouts", 0),
        )
    if not files["student"].exists():
        config = settings("distill", folder)
        run(
            *("distill", "--config", config, "--teacher", folder / "teacher"),
            *("--data", train, "--out", folder / "student"),
        )
        run(
            *("export", folder / "student", "--contract", given, "--out", files["student"]),
            *("--rollouts", 0, "--density"),
        )
    return files


def row(name: str, answer: dict[str, Any]) -> str:
    """Return a dry run as a line of the table."""
    errors = {entry["key"]: entry for entry in answer["errors"]}
    cells = [name]
    for key in ("arms", "hands"):
        entry = errors[key]
        nearest = entry["nearest_expert_rms"]
        cells += [
            f"{entry['rms']:.4f}",
            f"{entry['p99']:.3f}",
            "" if nearest is None else f"{nearest:.4f}",
        ]
    limited = sum(answer["limits"].values())
    held = sum(answer["held_by"].values())
    cells += [str(answer["compared"]), str(limited), str(held)]
    cells.append(f"{answer['infer_us']['p50'] / 1e3:.2f} ms")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Make the bag and the policies, replay, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recording", type=Path, help="pick_bottle_80.npz")
    parser.add_argument("--out", type=Path, default=Path("runs/g1_dry_run"))
    given = parser.parse_args()
    folder: Path = given.out
    folder.mkdir(parents=True, exist_ok=True)
    train, replayed = split(given.recording)
    made = contract()
    (folder / "contract.yaml").write_text(dump_yaml(made))
    save_npz(train, folder / "train.npz")
    bag = folder / "held_out"
    if not bag.exists():
        write_bag(replayed, made, bag)
    files = policies(folder, folder / "train.npz", folder / "contract.yaml")
    cells = ["command what is measured"]
    for entry in made.actions:
        # An increment is how far the recorded command is from the measured joint.
        away = np.abs(replayed.action[:, made.action_slice(entry.key)]).astype(np.float64)
        cells += [f"{np.sqrt((away**2).mean()):.4f}", f"{np.quantile(away, 0.99):.3f}", ""]
    print(f"| {' | '.join(cells)} | {len(replayed)} | | | |")
    variants = {
        "student, most likely expert": ("student", ("--selection", "argmax")),
        "student, sampled expert": ("student", ("--selection", "sample")),
        "teacher, 4 steps": ("teacher", ("--nfe", 4)),
        "teacher, 16 steps": ("teacher", ("--nfe", 16)),
    }
    for name, (which, more) in variants.items():
        answer = run("dry-run", files[which], bag, *more)
        if name == next(iter(variants)):
            change = {e["key"]: e["change_rms"] for e in answer["errors"]}
            print(f"{answer['ticks']} ticks, {answer['seconds']:.0f} s; step rms {change}")
            print(f"limits {answer['limits']}; held {answer['held_by']}")
            print(f"log q {answer['log_likelihood']}")
        print(row(name, answer), flush=True)


if __name__ == "__main__":
    main()
