"""Package description for pip and for colcon's ament_python build type."""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "vdd_ros"
ROOT = Path(__file__).resolve().parent

# rclpy and the messages on a machine without ROS 2: the same binaries, as wheels.
LINUX = "; sys_platform == 'linux' and platform_machine == 'x86_64'"
ROS_WHEELS = ("rclpy", "common-interfaces", "rmw-fastrtps-cpp")
PLOT = ["matplotlib>=3.7", "rich>=13.0"]
DISTILL = [
    # The version with a CPU build of moderate size; newer ones bring gigabytes of CUDA.
    "torch==2.13.0",
    "onnx>=1.17",
    "onnxscript>=0.5",
    "safetensors>=0.4",
    "jaxtyping>=0.2.36",
    *PLOT,
]
# Simulators of tasks; each is imported only when its task is made.
SIM = [
    "gym-pusht>=0.1.8",
    "shapely>=2.0.3",
]
# Half a gigabyte with what they need: not part of `dev`, their tests are skipped without them.
SIM_MUJOCO = [
    "ogbench>=1.2,<1.3",
    "gymnasium-robotics>=1.4",
    "mujoco==3.3.0",  # 4 breaks the kitchen
]
BAGS = ["rosbags>=0.10.11"]  # MCAP and sqlite3 recordings, without ROS
TEST = [
    *BAGS,
    "pytest>=8.0",
    "pytest-timeout>=2.3",
    "hypothesis>=6.100",
    "beartype>=0.19",
    "onnx>=1.17",
    "diffusers>=0.35",  # judges samplers and noise schedules
]
COLCON = [
    "colcon-core>=0.17",
    "colcon-ros>=0.5",
    "colcon-package-information>=0.4",
    "setuptools<80",  # colcon builds through `setup.py install`
]
LINT = ["ruff>=0.9", "mypy>=1.14", "types-PyYAML", "import-linter>=2.1"]


def installed_files() -> list[tuple[str, list[str]]]:
    """Returns what belongs under share/, folder by folder, beside the Python code."""
    share = Path("share") / PACKAGE
    files: dict[str, list[str]] = {
        "share/ament_index/resource_index/packages": [f"resource/{PACKAGE}"],
        str(share): ["package.xml"],
    }
    for pattern in ("launch/*.launch.py", "config/**/*", "models/*/*"):
        for path in sorted(ROOT.glob(pattern)):
            if path.is_file():
                inside = path.relative_to(ROOT)
                files.setdefault(str(share / inside.parent), []).append(str(inside))
    return sorted(files.items())


setup(
    name=PACKAGE,
    version="0.1.0",
    description=(
        "Distils diffusion policies into Mixtures of Experts that act in one network pass, "
        "and runs both as ROS 2 nodes."
    ),
    license="Apache-2.0",
    maintainer="vdd_ros maintainers",
    maintainer_email="maintainers@example.com",
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    package_data={PACKAGE: ["py.typed"]},
    data_files=installed_files(),
    python_requires=">=3.10",
    install_requires=[
        "setuptools",
        "numpy>=1.24",
        "pyyaml>=6.0",
        "onnxruntime>=1.18",
        "tyro>=0.9",
    ],
    extras_require={
        "ros": [f"ros-jazzy-{name}{LINUX}" for name in ROS_WHEELS],
        "ros-kilted": [f"ros-kilted-{name}{LINUX}" for name in ROS_WHEELS],
        "demo": PLOT,
        "distill": DISTILL,
        "bags": BAGS,
        "sim": [*SIM, *SIM_MUJOCO],
        # A second distribution of the same module: uninstall onnxruntime first.
        "gpu": ["onnxruntime-gpu>=1.18"],
        "test": TEST,
        "dev": [*DISTILL, *SIM, *TEST, *COLCON, *LINT],
    },
    entry_points={
        "console_scripts": [
            "vdd = vdd_ros.cli.main:main",
            "policy_node = vdd_ros.nodes.policy_node:main",
            "teacher_node = vdd_ros.nodes.teacher_node:main",
            "sim_node = vdd_ros.nodes.sim_node:main",
            "echo_node = vdd_ros.nodes.echo_node:main",
        ]
    },
    zip_safe=False,
)
