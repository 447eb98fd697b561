#!/bin/sh
# Check that commands are installed, named as their Debian packages are. Root and CI install the missing ones; for
# anyone else, or if that fails, it says how to.
set -eu

missing=""
for command in "$@"; do
    command -v "$command" >/dev/null || missing="$missing $command"
done
[ -n "$missing" ] || exit 0

install() {
    sudo=sudo
    [ "$(id -u)" != 0 ] || sudo=""
    command -v apt-get >/dev/null && { [ -z "$sudo" ] || [ "${CI:-}" = true ]; } || return
    $sudo apt-get update -qq &&
        $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >/dev/null
}

if ! install; then
    echo "Not installed:$missing. The tests that need them are skipped. To install them: sudo apt-get install$missing" >&2
fi
