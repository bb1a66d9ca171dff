# Sourced by the scripts beside it, which set $here. Gives $root and $python, and keeps .venv what requirements.lock says.
# POSIX sh. When all is well this costs three short forks and starts no Python.

root=${here%/*}
python=$root/.venv/bin/python

# What .venv is made from, and by which recipe. _venv.py writes it to .venv/.ready when all is done: half a .venv has none.
stamp() {
    cat -- "$root/requirements.lock" "$here/_venv.sh" "$here/_venv.py" | cksum
}

is_ready() {
    read -r made 2>/dev/null <"$root/.venv/.ready" && [ "$made" = "$asked" ] && [ -x "$python" ]
}

# Exits 0 for a Python that can make a .venv, 2 for one that lacks the parts that Debian packs into python3-venv.
probe='
import sys
if sys.version_info < (3, 11):
    sys.exit(1)
try:
    import ensurepip, venv
except ImportError:
    sys.exit(2)
'

set_up() {
    if [ -n "${PYTHON-}" ]; then
        set -- "$PYTHON"
    else
        set -- python3 python3.14 python3.13 python3.12 python3.11
    fi
    bare=
    for candidate do
        # A shim of a version manager may be on PATH and still fail: what counts is that it runs.
        fit=0
        "$candidate" -I -c "$probe" >/dev/null 2>&1 </dev/null || fit=$?
        if [ "$fit" -eq 2 ]; then
            bare=${bare:-$candidate}
            command -v uv >/dev/null || continue # uv needs no pip in .venv
            fit=0
        fi
        [ "$fit" -eq 0 ] || continue
        "$candidate" -I "$here/_venv.py" "$asked"
        return
    done
    if [ -n "$bare" ]; then
        echo "ptsweep: $bare needs Python's venv module; on Debian or Ubuntu: apt install python3-venv" >&2
    elif [ -n "${PYTHON-}" ]; then
        echo "ptsweep: PYTHON=$PYTHON is not a working Python 3.11 or newer" >&2
    else
        echo "ptsweep: needs Python 3.11 or newer and found none (tried $*); PYTHON=/path/to/python names one" >&2
    fi
    return 4
}

asked=$(stamp)
is_ready || set_up || exit

if [ ! -w "$root/engine" ] && [ -z "${NUMBA_CACHE_DIR-}" ] && [ ! -w "${HOME:-/nowhere}" ]; then
    echo "ptsweep: $root is read-only: set NUMBA_CACHE_DIR to a folder of yours that can keep the compiled engine" >&2
fi
