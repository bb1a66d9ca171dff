# Sourced by the scripts beside it, which set $here and `set -eu`. Sets $root and $python, and installs requirements.lock
# into .venv unless .venv/.ready shows that this was done. POSIX sh.
#
# uv installs: the user's, or the version that requirements.lock pins. Not `uv sync`: a uv.lock holds the address of one
# package index for every file, whereas requirements.lock holds hashes only and works with any index or mirror.

root=${here%/*}
python=$root/.venv/bin/python
stamp=$(cat -- "$root/requirements.lock" "$here/_venv.sh" | cksum)

fail() {
    echo "ptsweep: $*" >&2
    exit 4
}

is_ready() {
    read -r installed 2>/dev/null <"$root/.venv/.ready" && [ "$installed" = "$stamp" ] && [ -x "$python" ]
}

# Prints the path of the interpreter itself: a link such as /usr/bin/python3 leads to another version after an upgrade.
probe='import os, sys
if not (3, 11) <= sys.version_info < (3, 15): sys.exit(1)
try: import ensurepip, venv
except ImportError: sys.exit(2)
print(os.path.realpath(sys.executable))'

find_python() {
    if [ -n "${PYTHON-}" ]; then set -- "$PYTHON"; else set -- python3 python3.14 python3.13 python3.12 python3.11; fi
    for candidate do
        "$candidate" -I -c "$probe" 2>/dev/null </dev/null && return
        [ $? -ne 2 ] || without_venv=$candidate
    done
    [ -z "${without_venv-}" ] || fail "$without_venv has no venv module; on Debian or Ubuntu: apt install python3-venv"
    fail "needs Python 3.11 to 3.14 and found none (tried $*); PYTHON=/path/to/python names one"
}

pip_install() { # PIP_USER=0: pip refuses `user = true` of a pip.conf in a venv
    PIP_USER=0 "$python" -I -m pip install -qq --disable-pip-version-check --no-deps --only-binary :all: -r "$1"
}

set_up() (
    echo "ptsweep: installing requirements.lock into .venv (the first time: a minute, 300 MB to download)"
    "$1" -I -c 'import fcntl, signal; signal.signal(2, 0); fcntl.flock(9, fcntl.LOCK_EX)' # the shell keeps the lock
    ! is_ready || exit 0
    trap '[ $? -eq 0 ] || fail "could not install requirements.lock into .venv: the reason is above"' EXIT
    cd -- "$root"
    if [ ! -x "$python" ] || [ ! -f .venv/.ready ]; then
        printed=$("$1" -I -m venv --clear .venv 2>&1) || { echo "$printed" && exit 1; }
    fi
    rm -f .venv/.ready # written last: an unfinished .venv has none
    uv=$(command -v uv) || uv=$root/.venv/bin/uv
    if [ ! -x "$uv" ]; then
        sed -n '/^uv==/,/^ *#/p' requirements.lock >.venv/uv.lock
        pip_install .venv/uv.lock
    fi
    # pip is slower, but it may be set up for a mirror or a proxy that uv does not know.
    "$uv" pip sync -q --python "$python" --require-hashes --only-binary :all: --compile-bytecode requirements.lock ||
        pip_install requirements.lock
    for packages in .venv/lib/python*/site-packages; do
        echo ../../../.. >"$packages/ptsweep.pth" # relative: the checkout can be moved
    done
    echo "$stamp" >.venv/.ready
    echo "ptsweep: compiling the engine for the shipped grid first (a quarter of a minute)"
    # Done here so that the user's first launch takes seconds. If it fails, that launch compiles, or says what is wrong.
    "$python" -I -m sweep.cli launch first --results .venv/results </dev/null >/dev/null 2>&1 || :
    rm -rf .venv/results
)

if ! is_ready; then
    [ -w "$here/_venv.sh" ] || fail "cannot write to $root, where .venv is to be made"
    base=$(find_python)
    set_up "$base" 9>>"$here/_venv.sh" >&2
fi
