#!/bin/sh
# Makes the virtual environment: sh standalone/setup.sh PYTHON VENV
# Debian and Ubuntu leave venv out of python3; it is added here where that is allowed.
set -eu
python=$1
venv=$2

if ! command -v "$python" >/dev/null 2>&1; then
    echo "error: there is no '$python'. Install Python 3.10 to 3.13, or name one: make PYTHON=python3.12 ..." >&2
    exit 1
fi
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
case "$version" in
    3.10 | 3.11 | 3.12 | 3.13) ;;
    *)
        echo "error: $python is Python $version; expected 3.10 to 3.13. Name another: make PYTHON=python3.12 ..." >&2
        exit 1
        ;;
esac
[ -x "$venv/bin/python" ] && "$venv/bin/python" -m pip --version >/dev/null 2>&1 && exit 0

if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    package="python$version-venv"
    echo "Python's venv module is missing; installing $package ..."
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        apt-get update -qq && apt-get install -y -qq "$package" >/dev/null
    elif sudo -n true 2>/dev/null && command -v apt-get >/dev/null 2>&1; then
        sudo apt-get update -qq && sudo apt-get install -y -qq "$package" >/dev/null
    else
        echo "error: please run 'sudo apt-get install $package', then the same command again." >&2
        exit 1
    fi
fi
"$python" -m venv "$venv"
