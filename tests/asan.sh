#!/bin/sh
# The native half under the address and undefined-behaviour sanitizers, in a build tree of its own (build/asan).
#
#   tests/asan.sh [PYTEST ARGUMENTS]   build, then run the fastpath and node tests under it (make asan)
#   tests/asan.sh build                build only
#   tests/asan.sh exec COMMAND...      replace this process by COMMAND under it (what is built already)
#
# Incremental; the modules in fastpath/ that everything else uses are never touched.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
source=$root/fastpath/quorumd_fastpath
tree=$root/build/asan
target=$tree/fastpath/quorumd_fastpath
python=${QUORUMD_PYTHON:-$root/.venv/bin/python}
compiler=${CXX:-c++}

build() {
    mkdir -p "$target"
    for copy in "$target"/*.pyx; do # what is gone there goes here
        name=$(basename "$copy" .pyx)
        [ -e "$source/$name.pyx" ] || rm -f "$target/$name".*
    done
    for file in "$source"/*; do
        case $file in
        *.so | *__pycache__) ;;
        *) cp -pu "$file" "$target/" ;;
        esac
    done
    force=
    if ! cmp -s "$root/setup.py" "$tree/setup.py"; then # other flags: everything anew
        force=--force
    fi
    (cd "$tree" && cp -p "$root/setup.py" . && QUORUMD_SANITIZE=1 "$python" setup.py -q build_ext --inplace $force)
}

# The runtimes must be there before the interpreter, which is not instrumented, and libstdc++ with them, or they find no
# __cxa_throw to wrap. PYTHONMALLOC=malloc: each bytes object is an allocation of its own, with guards around it.
enter() {
    LD_PRELOAD="$($compiler -print-file-name=libasan.so) $($compiler -print-file-name=libubsan.so)"
    LD_PRELOAD="$LD_PRELOAD $($compiler -print-file-name=libstdc++.so)"
    ASAN_OPTIONS="detect_leaks=0:allocator_may_return_null=1${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
    UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1${UBSAN_OPTIONS:+:$UBSAN_OPTIONS}"
    PYTHONPATH="$tree/fastpath:$root/daemon${PYTHONPATH:+:$PYTHONPATH}"
    PYTHONMALLOC=malloc
    export LD_PRELOAD ASAN_OPTIONS UBSAN_OPTIONS PYTHONPATH PYTHONMALLOC
}

# Every native module must be the sanitized one, and it must see an over-read within a slab, or the run shows nothing.
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
    if b"__asan_report_load" not in found.read_bytes():
        sys.exit(f"asan: {found} is not instrumented")
CHECK
    behind='from quorumd_fastpath.wire import Slab; s = Slab(2, 99); s.push(b"datagram", b"a"); bytes(memoryview(s)[:9])'
    if "$python" -c "$behind" 2>/dev/null; then
        echo "asan: a read behind a datagram went unnoticed" >&2
        exit 1
    fi
}

case ${1:-} in
build)
    build
    ;;
exec)
    shift
    enter
    exec "$@"
    ;;
*)
    build
    enter
    check
    cd "$root"
    [ $# -gt 0 ] || set -- tests/fastpath tests/node
    # The profile without deadlines: what is slow here says nothing.
    exec "$python" -m pytest -p no:cacheprovider --hypothesis-profile=ci "$@"
    ;;
esac
