#!/usr/bin/env bash
# Find or make the headless Chromium that the page's tests open. Does nothing where one works already.
#
#   tools/make_browser.sh        looks at $PEFTPORT_BROWSER, .browser/chromium, then the browsers on the PATH
#
# Where there is none: apt installs it (root, or sudo without a password); without root, Debian's packages are unpacked
# into .browser, which changes nothing else on the machine; last, playwright downloads its own build.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
own="$root/.browser"
python="${PYTHON:-$root/.venv/bin/python}"

works() {
    [ -x "$1" ] && "$1" --headless --no-sandbox --disable-gpu --dump-dom about:blank >/dev/null 2>&1
}

found() {
    local candidate
    for candidate in "${PEFTPORT_BROWSER:-}" "$own/chromium" \
        "$(command -v chromium || true)" "$(command -v chromium-browser || true)" "$(command -v google-chrome || true)"; do
        if [ -n "$candidate" ] && works "$candidate"; then
            echo "browser: $candidate"
            return 0
        fi
    done
    return 1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

install_with_apt() {
    command -v apt-get >/dev/null || return 1
    as_root true 2>/dev/null || return 1
    as_root apt-get update -qq || true
    DEBIAN_FRONTEND=noninteractive as_root apt-get install -y -qq --no-install-recommends chromium >/dev/null
}

# Debian's chromium and every library that the machine lacks, beside the repository. Needs package lists, not root.
unpack_without_root() {
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    local packages debs="$own/debs"
    packages="$(apt-get install -s --no-install-recommends chromium 2>/dev/null | awk '/^Inst/ { print $2 }')"
    [ -n "$packages" ] || packages="chromium chromium-common"
    rm -rf "$own" && mkdir -p "$debs" "$own/root"
    # shellcheck disable=SC2086
    (cd "$debs" && apt-get download -qq $packages) || return 1
    for deb in "$debs"/*.deb; do dpkg-deb -x "$deb" "$own/root"; done
    rm -rf "$debs"
    local libraries
    libraries="$(find "$own/root" -name '*.so*' -printf '%h\n' | sort -u | paste -sd :)"
    printf '#!/bin/sh\nLD_LIBRARY_PATH="%s:${LD_LIBRARY_PATH:-}" exec "%s" "$@"\n' \
        "$libraries" "$own/root/usr/lib/chromium/chromium" >"$own/chromium"
    chmod +x "$own/chromium"
}

download_with_playwright() {
    local path
    "$python" -m playwright install chromium >/dev/null 2>&1 || return 1
    path="$("$python" -c 'from playwright.sync_api import sync_playwright
with sync_playwright() as p: print(p.chromium.executable_path)')"
    mkdir -p "$own" && ln -sf "$path" "$own/chromium"
}

if found; then exit 0; fi
for way in install_with_apt unpack_without_root download_with_playwright; do
    if "$way" && found; then exit 0; fi
done
echo "make_browser: no Chromium works and none could be installed (tried: apt as root, unpacking Debian's packages," \
    "playwright's download). Install Chromium or Chrome and name it in PEFTPORT_BROWSER." >&2
exit 1
