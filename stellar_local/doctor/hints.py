"""Commands that mend what is no matter of llama.cpp's build: the system's packages, drivers, folders.

Knows package managers and drivers by name; runs nothing.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable

from .machine import Machine

# What holds a library: for apt, dnf, pacman, apk and zypper.
_PACKAGES = {
    "libgomp": ("libgomp1", "libgomp", "gcc-libs", "libgomp", "libgomp1"),
    "libstdc++": ("libstdc++6", "libstdc++", "gcc-libs", "libstdc++", "libstdc++6"),
    "libgcc_s": ("libgcc-s1", "libgcc", "gcc-libs", "libgcc", "libgcc_s1"),
    "libvulkan": ("libvulkan1", "vulkan-loader", "vulkan-icd-loader", "vulkan-loader", "libvulkan1"),
    "libopenblas": ("libopenblas0", "openblas", "openblas", "openblas", "libopenblas0"),
    "libomp": ("libomp5", "libomp", "openmp", "openmp", "libomp-devel"),
}
_MANAGERS = (
    ("apt-get", "sudo apt-get install -y"),
    ("dnf", "sudo dnf install -y"),
    ("pacman", "sudo pacman -S --noconfirm"),
    ("apk", "sudo apk add"),
    ("zypper", "sudo zypper install -y"),
)
_DRIVERS = {
    "ubuntu-drivers": "sudo ubuntu-drivers install && sudo reboot",
    "apt-get": "sudo apt-get install -y nvidia-driver && sudo reboot",
    "dnf": "sudo dnf install -y akmod-nvidia && sudo reboot",
    "pacman": "sudo pacman -S --noconfirm nvidia && sudo reboot",
}
_DRIVER_PAGE = "https://www.nvidia.com/drivers"
GPU_CONTAINER = "docker run --gpus all --rm -it IMAGE"
HOLDERS = {"Windows": "tasklist", "Darwin": "top -l 1 -o mem -n 10"}  # which programs hold the memory


def manager(which: Callable[[str], str | None] = shutil.which) -> str:
    """The package manager of this system, "" where none is known."""
    return next((name for name, _ in _MANAGERS if which(name)), "")


def install(library: str, found: str) -> str:
    """The command by which the package manager `found` installs a library (libgomp.so.1); "" if it is unknown."""
    stem = re.split(r"\.so\b|-\d", library)[0]
    names = [name for name, _ in _MANAGERS]
    if stem not in _PACKAGES or found not in names:
        return ""
    place = names.index(found)
    return f"{_MANAGERS[place][1]} {_PACKAGES[stem][place]}"


def nvidia_driver(machine: Machine, which: Callable[[str], str | None] = shutil.which) -> str:
    """The command that gives this machine a driver for NVIDIA's cards, or a container a way to it."""
    if machine.container:
        return GPU_CONTAINER
    if machine.system == "Windows" or machine.wsl:  # WSL's is the one of Windows
        return f"start {_DRIVER_PAGE}"
    return next((command for name, command in _DRIVERS.items() if which(name)), f"xdg-open {_DRIVER_PAGE}")


def memory_holders(machine: Machine) -> str:
    """The command that shows which programs hold the memory."""
    return HOLDERS.get(machine.system, "ps aux --sort=-rss | head")
