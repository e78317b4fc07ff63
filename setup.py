"""Builds the native half of quorumd (fastpath/quorumd_fastpath/*.pyx); everything else is in pyproject.toml.

Environment switches, all optional:
    QUORUMD_ONLY=wire,crc   build only these modules
    QUORUMD_SANITIZE=1      address and undefined-behaviour sanitizers (see `make asan`)
    QUORUMD_PURE=1          install without building (the Makefile builds in place, in parallel, afterwards)
    QUORUMD_WERROR=1        compiler warnings are errors (CI)
    QUORUMD_TEST_DEFINES=X  extra -DX preprocessor switches, for the tests that must see a broken build fail
"""

import os
import platform
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_packages, setup

REQUIREMENTS = (
    "quorumd builds on Linux (x86-64 or aarch64) with a C and C++17 compiler and the Python headers "
    "(Debian: apt-get install build-essential python3-dev)"
)
ROOT = Path(__file__).parent
PACKAGE = Path("fastpath/quorumd_fastpath")


def refuse(missing: str) -> None:
    sys.exit(f"{REQUIREMENTS}; missing here: {missing}.")


def check_machine() -> None:
    if not sys.platform.startswith("linux"):
        refuse(f"Linux (this is {sys.platform})")
    if platform.machine() not in ("x86_64", "aarch64"):
        refuse(f"a supported processor (this is {platform.machine()})")
    compiler = os.environ.get("CXX", "").split() or ["c++"]
    if not any(shutil.which(name) for name in (compiler[0], "g++", "clang++")):
        refuse("a C++ compiler")
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        refuse("Python.h")


def extensions() -> list[Extension]:
    only = {name for name in os.environ.get("QUORUMD_ONLY", "").split(",") if name}
    compile_args = ["-std=c++17", "-O3", "-g1", "-fno-strict-aliasing", "-Wall", "-Wextra", "-Wno-unused-parameter"]
    # What Cython's own generated code trips over; ours is still warned about.
    compile_args += ["-Wno-missing-field-initializers", "-Wno-cast-function-type", "-Wno-deprecated-declarations"]
    link_args: list[str] = []
    if os.environ.get("QUORUMD_SANITIZE"):
        flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
        compile_args += [*flags, "-O1"]
        link_args += flags
    if os.environ.get("QUORUMD_WERROR"):
        compile_args.append("-Werror")
    compile_args += [f"-D{name}" for name in os.environ.get("QUORUMD_TEST_DEFINES", "").split(",") if name]
    headers = [str(path) for path in sorted((ROOT / PACKAGE).glob("*.h"))]
    return [
        Extension(
            f"quorumd_fastpath.{path.stem}",
            [str(PACKAGE / path.name)],
            language="c++",
            include_dirs=[str(PACKAGE)],
            depends=headers,
            extra_compile_args=compile_args,
            extra_link_args=[*link_args, "-pthread"],
        )
        for path in sorted((ROOT / PACKAGE).glob("*.pyx"))
        if not only or path.stem in only
    ]


def native_modules() -> list[Extension]:
    check_machine()
    from Cython.Build import cythonize  # noqa: PLC0415 - only once the machine is known to be fit

    directives = {
        "language_level": "3",
        "boundscheck": False,
        "wraparound": False,
        "cdivision": True,
        "initializedcheck": False,
        "embedsignature": True,
        "freethreading_compatible": False,
    }
    modules: list[Extension] = cythonize(
        extensions(), include_path=["fastpath"], compiler_directives=directives, build_dir="build/cython",
        nthreads=min(2, os.cpu_count() or 1), quiet=True,
    )
    return modules


NEEDS_NATIVE = not os.environ.get("QUORUMD_PURE") and not {"egg_info", "dist_info", "sdist"} & set(sys.argv[1:2])

setup(
    packages=find_packages("daemon") + find_packages("fastpath"),
    package_dir={"quorumd": "daemon/quorumd", "quorumd_fastpath": "fastpath/quorumd_fastpath"},
    package_data={
        "quorumd": ["py.typed", "*.yaml", "chaos/*.c", "compare/*.yaml", "compare/*.html"],
        "quorumd_fastpath": ["py.typed", "*.pyi", "*.pxd", "*.h"],
    },
    ext_modules=native_modules() if NEEDS_NATIVE else [],
    options={"build_ext": {"parallel": min(2, os.cpu_count() or 1)}},
    zip_safe=False,
)
