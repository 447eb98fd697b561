#!/bin/sh
# Install the named Debian packages whose commands are missing, where that can be done without asking.
set -eu

missing=""
for command in "$@"; do
    command -v "$command" >/dev/null || missing="$missing $command"
done
[ -n "$missing" ] || exit 0

root=""
[ "$(id -u)" = 0 ] || root="sudo -n"
if command -v apt-get >/dev/null && $root true 2>/dev/null; then
    $root apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $root apt-get install -qq -y $missing >/dev/null
else
    echo "not installed:$missing; the tests that need them will be skipped" >&2
fi
