#!/bin/sh
# Makes .venv hold what constraints.txt names, and the engine compiled; returns at once where it already does.
set -eu
cd "$(dirname "$0")/../.."

say() { echo "setup: $*"; }
die() { echo "setup: $*" >&2; exit 1; }

py=.venv/bin/python
stamp=.venv/.installed
here=$(pwd)
wanted="$(cat pyproject.toml constraints.txt deploy/ci/setup.sh | cksum) $here"
fits='import sys; raise SystemExit(sys.version_info < (3, 11))'

# A name on the path may be a version switcher's shim for a Python that is not active, so each is run.
find_python() {
    for name in ${PYTHON:-python3.13 python3.12 python3.11 python3 python}; do
        if "$name" -c "$fits" >/dev/null 2>&1; then
            echo "$name"
            return
        fi
    done
    die "no Python 3.11 or newer found (tried ${PYTHON:-python3.13, python3.12, python3.11, python3, python}):" \
        "install one, or name it with 'make setup PYTHON=/path/to/python3'"
}

make_venv() {
    python=$(find_python)
    say "making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv >.venv.log 2>&1 || {
        cat .venv.log >&2
        die "$python cannot make a virtual environment: on Debian and Ubuntu, install the package python3-venv"
    }
    rm -f .venv.log
}

# uv reads no pip configuration: a wheel folder that pip is told of is passed on, or uv would choose another torch.
install() {
    if uv --version >/dev/null 2>&1; then
        UV_FIND_LINKS="${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}" \
            uv pip install --quiet --compile-bytecode --python "$py" -c constraints.txt "$@" && return
        say "uv could not install this; trying pip"
    fi
    "$py" -m pip install --quiet --quiet --disable-pip-version-check -c constraints.txt "$@"
}

# A link leads to the environment of another checkout: it is used as it is, and never cleared or changed from here.
if [ -L .venv ]; then
    "$py" -c "$fits" >/dev/null 2>&1 || die ".venv is a link to $(readlink .venv), which holds no Python that runs:" \
        "run make setup where it belongs, or remove the link"
    exit 0
fi

if [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ] || ! "$py" -c "$fits" >/dev/null 2>&1; then
    began=$(date +%s)
    # Scripts in an environment carry its path: one that was made elsewhere is made anew.
    if ! "$py" -c "$fits" >/dev/null 2>&1 || { [ -f "$stamp" ] && ! grep -qF " $here" "$stamp"; }; then
        make_venv
    fi
    rm -f "$stamp"
    say "installing torch"
    install 'torch>=2.6,<3'
    say "installing the rest"
    install -e '.[dev]'
    echo "$wanted" >"$stamp"
    say "installed in $(($(date +%s) - began)) s"
fi

# What numba compiles keeps its machine code beside its source; a change of the source asks for it again.
if [ -f emulation/engine/choose.py ]; then
    engine=$(cat emulation/engine/*.py emulation/lowering/*.py workloads/routing/*.py cluster/observe/compiled*.py cluster/observe/*/compiled*.py | cksum)
    if [ "$(cat .venv/.warmed 2>/dev/null || true)" != "$engine" ]; then
        began=$(date +%s)
        # Two at once: the engine takes as long as all the rest.
        "$py" -c 'from emulation.engine.choose import warm; warm(); import emulation.engine.straight' &
        kernels=$!
        "$py" -c 'import workloads.routing.compiled_oracle, cluster.observe.collect, emulation.lowering.compiled_layers'
        wait "$kernels"
        echo "$engine" >.venv/.warmed
        say "engine compiled in $(($(date +%s) - began)) s"
    fi
fi
