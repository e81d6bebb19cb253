#!/usr/bin/env bash
# Makes a virtual environment and installs requirements.lock and the project into it: `infra/setup.sh FOLDER`.
# uv does the installing (seconds instead of minutes); it does not read pip's configuration, so what matters of that is
# handed over here. Why it is done this way: docs/decisions/0002-setup.md. Called by `make setup`.
set -euo pipefail

UV="uv==0.13.8"
venv=${1:?usage: infra/setup.sh FOLDER}
cd "$(dirname "$0")/.."

fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

new_enough() { "$1" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
  local candidate seen=""
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do
    new_enough "$candidate" && { command -v "$candidate"; return; }
    seen="$seen, $candidate ($({ command -v "$candidate" >/dev/null && "$candidate" --version 2>&1; } || echo "not found"))"
  done
  fail "Millrace needs Python 3.11 or newer; looked at ${seen#, }." \
    "Install one, or name it: make setup PYTHON=/path/to/python3.11"
}

if ! new_enough "$venv/bin/python"; then
  python=$(find_python)
  echo "setup: making $venv with $("$python" --version) and installing $(grep -c == requirements.lock) packages"
  "$python" -m venv --clear "$venv" || {
    rm -rf "$venv"
    fail "$python cannot make a virtual environment. On Debian and Ubuntu: apt-get install python3-venv"
  }
fi
"$venv/bin/python" -m pip install -qq --disable-pip-version-check "$UV" ||
  fail "pip could not install $UV; its message is above. An install needs a package index (pip config list)."

# One of pip's options as pip itself reads it on this machine: PIP_* variables first, then its files.
pip_options=$("$venv/bin/python" -m pip config list)
pip_option() {
  sed -n -E "s/^(:env:|install|global)\.$1='(.*)'\$/\2/p" <<<"$pip_options" | head -n 1 | sed 's/\\n/ /g'
}
options=()
for folder in $(pip_option find-links); do options+=(--find-links "$folder"); done
index=$(pip_option index-url)
certificates=$(pip_option cert)
[ -z "$index" ] || options+=(--default-index "$index")
[ -z "$certificates" ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-$certificates}"
uv() { "$venv/bin/uv" --quiet --no-progress "$@"; }
# Compiled once here (half a minute): where bytecode cannot or must not be written, every process would compile anew.
install() { uv pip install --compile-bytecode ${options[@]+"${options[@]}"} -r requirements.lock; }
export VIRTUAL_ENV="$PWD/$venv"
# A machine that brings its own packages or index brings its own torch; any other gets the build for its accelerator
# from PyTorch's index, which spares one without a GPU gigabytes of CUDA. UV_TORCH_BACKEND (cpu, cu130, …) overrules.
installed=no
if [ ${#options[@]} -eq 0 ] && [ -z "${UV_TORCH_BACKEND:-}" ]; then
  if UV_TORCH_BACKEND=auto install; then installed=yes; else
    echo "setup: trying once more without PyTorch's own index; on Linux some GB of CUDA may come along"
  fi
fi
[ $installed = yes ] || install ||
  fail "the packages of requirements.lock could not be installed; uv's message is above. Behind a mirror of the package" \
    "index, tell pip of it (pip config set global.index-url …): setup hands it on."
uv pip install --no-deps --no-build-isolation --editable .
