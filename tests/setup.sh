#!/bin/sh
# Puts beside the virtual environment $1 what pip cannot: the oldest supported frontend in a folder
# of its own, and a browser where this user may install one. Says plainly what it left out.
set -u
venv=$1
oldest=1.27.10
target="$venv/frontends/$oldest"

if [ ! -f "$target/comfyui_frontend_package/static/index.html" ]; then
    "$venv/bin/python" -m pip --disable-pip-version-check install --quiet --no-deps \
        --target "$target" "comfyui-frontend-package==$oldest" || {
        rm -rf "$target"
        echo "No frontend $oldest: the browser tests will use the newest one only." >&2
    }
fi

for name in chromium chromium-browser google-chrome google-chrome-stable; do
    if command -v "$name" >/dev/null 2>&1; then
        exit 0
    fi
done
for app in "Chromium" "Google Chrome" "Microsoft Edge"; do
    for folder in /Applications "$HOME/Applications"; do
        if [ -x "$folder/$app.app/Contents/MacOS/$app" ]; then
            exit 0
        fi
    done
done
if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
    echo "Installing Debian's chromium for the browser tests (once) ..."
    log="$venv/chromium-install.log"
    if apt-get update >"$log" 2>&1 &&
        DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends chromium \
            >>"$log" 2>&1; then
        exit 0
    fi
    echo "Chromium could not be installed, see $log." >&2
fi
echo "No browser: the browser tests will be skipped (to run them: install chromium as root)." >&2
