"""Build the compiled parts: one extension per `native/*.pyx`, installed as `realtime.native`.

Everything else about the package stands in pyproject.toml. `REALTIME_BUILD_ONLY=frames,hub`
builds just those modules, for a quick turn while working on one of them.
"""

import multiprocessing
import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
LIBRARIES = {"deflate": ["z"], "parcels": ["z"]}
COMPILE_ARGS = ["-O3", "-g1", "-std=gnu11", "-D_GNU_SOURCE", "-fno-strict-aliasing"]


def link_native() -> None:
    """Make `realtime/native -> ../native` where it is absent.

    Cython looks cimports up as paths, so `realtime.native.frames` must lie under `realtime/`;
    an sdist carries no link.
    """
    link = ROOT / "realtime" / "native"
    if not link.exists():
        link.symlink_to(Path("..") / "native", target_is_directory=True)


def extensions() -> list[Extension]:
    """One per .pyx. Cython adds the .pxd files that each one cimports to what it depends on."""
    only = set(filter(None, os.environ.get("REALTIME_BUILD_ONLY", "").split(",")))
    names = sorted(path.stem for path in (ROOT / "native").glob("*.pyx"))
    if unknown := only.difference(names):
        raise SystemExit(f"REALTIME_BUILD_ONLY: no native/*.pyx for {', '.join(sorted(unknown))}")
    return [
        Extension(
            f"realtime.native.{name}",
            [f"native/{name}.pyx"],
            libraries=LIBRARIES.get(name, []),
            extra_compile_args=COMPILE_ARGS,
            include_dirs=["native"],
            depends=sorted(f"native/{path.name}" for path in (ROOT / "native").glob("*.h")),
        )
        for name in names
        if not only or name in only
    ]


class BuildWithUnits(build_py):
    """Puts systemd/ into the package, for `realtime install-units`; a checkout has it at its top."""

    def run(self):
        super().run()
        if not self.editable_mode:
            for source, target in self._units():
                self.mkpath(str(target.parent))
                self.copy_file(str(source), str(target))

    def get_outputs(self, include_bytecode=True):
        return [*super().get_outputs(include_bytecode), *(str(target) for _, target in self._units())]

    def _units(self):
        base = Path(self.build_lib) / "realtime"
        return [
            (path, base / path.relative_to(ROOT))
            for path in sorted((ROOT / "systemd").rglob("*"))
            if path.is_file()
        ]


def translators() -> int:
    """How many modules are translated to C at once. By what is no copy of us, this would be run again."""
    return (os.cpu_count() or 1) if multiprocessing.get_start_method() == "fork" else 0


link_native()
setup(
    cmdclass={"build_py": BuildWithUnits},
    options={"build_ext": {"parallel": os.cpu_count() or 1}},  # pip, which builds wheels, has no way to ask
    ext_modules=cythonize(
        extensions(),
        build_dir="build/cython",
        nthreads=translators(),
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
            "embedsignature": False,
        },
    ),
)
