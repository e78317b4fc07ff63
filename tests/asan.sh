#!/bin/sh
# The native half under the address and undefined-behaviour sanitizers, in a build tree of its own (build/asan).
#
#   tests/asan.sh [test] [PYTEST ARGUMENTS]   build, then run the fastpath and node tests under it (make asan)
#   tests/asan.sh build                       build only
#   tests/asan.sh exec COMMAND...             replace this process by COMMAND under it (what is built already)
#
# Incremental, and the modules in fastpath/ that everything else uses are never touched.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
tree=$root/build/asan
python=${QUORUMD_PYTHON:-$root/.venv/bin/python}
compiler=${CXX:-c++}

build() {
    mkdir -p "$tree/fastpath/quorumd_fastpath"
    for copy in "$tree"/fastpath/quorumd_fastpath/*.pyx; do # what is gone there is gone here
        name=$(basename "$copy" .pyx)
        if [ ! -e "$root/fastpath/quorumd_fastpath/$name.pyx" ]; then
            rm -f "$tree/fastpath/quorumd_fastpath/$name".*
        fi
    done
    for file in "$root"/fastpath/quorumd_fastpath/*; do
        case $file in
        *.so | *__pycache__) ;;
        *) cp -pu "$file" "$tree/fastpath/quorumd_fastpath/" ;;
        esac
    done
    force=
    [ "$tree/setup.py" -nt "$root/setup.py" ] || [ ! -e "$tree/setup.py" ] || cmp -s "$root/setup.py" "$tree/setup.py" || force=--force
    cp -p "$root/setup.py" "$tree/"
    (cd "$tree" && QUORUMD_SANITIZE=1 "$python" setup.py -q build_ext --inplace $force)
}

# The runtimes must be there before the interpreter: it is not instrumented. libstdc++ with them, or the sanitizer
# finds no __cxa_throw to wrap. PYTHONMALLOC: bytes objects get their own guarded allocations.
enter() {
    LD_PRELOAD="$($compiler -print-file-name=libasan.so) $($compiler -print-file-name=libubsan.so)"
    LD_PRELOAD="$LD_PRELOAD $($compiler -print-file-name=libstdc++.so)"
    ASAN_OPTIONS="detect_leaks=0:halt_on_error=1:allocator_may_return_null=1:strict_string_checks=1${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
    UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1${UBSAN_OPTIONS:+:$UBSAN_OPTIONS}"
    PYTHONPATH="$tree/fastpath:$root/daemon${PYTHONPATH:+:$PYTHONPATH}"
    PYTHONMALLOC=malloc
    export LD_PRELOAD ASAN_OPTIONS UBSAN_OPTIONS PYTHONPATH PYTHONMALLOC
}

check() {
    "$python" - "$tree" <<'CHECK'
import importlib
import pathlib
import sys

tree = pathlib.Path(sys.argv[1])
for source in sorted((tree / "fastpath/quorumd_fastpath").glob("*.pyx")):
    found = pathlib.Path(importlib.import_module(f"quorumd_fastpath.{source.stem}").__file__)
    if not found.is_relative_to(tree):
        sys.exit(f"asan: {source.stem} comes from {found}, not from {tree}")
CHECK
}

mode=${1:-test}
case $mode in
build)
    build
    ;;
exec)
    shift
    enter
    exec "$@"
    ;;
*)
    [ "$mode" != test ] || [ $# -eq 0 ] || shift
    build
    enter
    check
    cd "$root"
    exec "$python" -m pytest -p no:cacheprovider "${@:-tests/fastpath}" ${1:+} 
    ;;
esac
