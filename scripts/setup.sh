#!/usr/bin/env bash
# Installs the system packages Viva lacks, or says exactly what to type. usage: setup.sh build|test
# A machine that has everything is left alone and told nothing.
set -euo pipefail

# What the engines are compiled with (cmake, clang for bindgen, headers) and what brings the weights (pip).
BUILD=(g++ make cmake clang libclang-dev pkg-config libssl-dev libsonic-dev libopus-dev python3 python3-pip)
# What the tests play, speak, and drive a browser with.
TEST=(unzip python3-venv espeak-ng sox ffmpeg pocketsphinx-testdata chromium nodejs npm)

# Whether a package is there, or something else that does its work (node from another source brings npm).
has() {
    case $1 in
        nodejs) command -v node ;;
        npm | cmake | clang | make | unzip | espeak-ng | sox | ffmpeg | chromium | g++ | pkg-config | python3) command -v "$1" ;;
        python3-pip) python3 -m pip --version ;;
        python3-venv) python3 -c 'import ensurepip, venv' ;;
        *) dpkg-query -W -f '${db:Status-Status}' "$1" | grep -qx installed ;;
    esac >/dev/null 2>&1
}

retry() {
    local wait=2
    for _ in 1 2 3; do
        "$@" && return
        echo "setup: trying again in $wait s: $*" >&2
        sleep "$wait"
        wait=$((wait * 3))
    done
    "$@"
}

if ! command -v cargo >/dev/null; then
    echo "setup: Rust is missing. See https://rustup.rs, or: apt-get install rustup && rustup default stable" >&2
    exit 1
fi

wanted=("${BUILD[@]}")
[ "${1:-build}" = test ] && wanted+=("${TEST[@]}")
missing=()
for package in "${wanted[@]}"; do has "$package" || missing+=("$package"); done
[ ${#missing[@]} -eq 0 ] && exit 0

if ! command -v apt-get >/dev/null; then
    echo "setup: this is not a Debian. Please install what these are called here: ${missing[*]}" >&2
    exit 1
fi
if [ "$(id -u)" = 0 ]; then
    as_root=(env)
elif sudo -n true 2>/dev/null; then
    as_root=(sudo -n env)
else
    echo "setup: some system packages are missing, and installing them needs root. Please run:" >&2
    echo "    sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]}" >&2
    exit 1
fi
echo "setup: installing ${missing[*]}"
apt=("${as_root[@]}" DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=3)
retry "${apt[@]}" update
retry "${apt[@]}" install -y --no-install-recommends "${missing[@]}"
for package in "${missing[@]}"; do
    has "$package" || { echo "setup: $package was installed but does not work" >&2; exit 1; }
done
