#!/usr/bin/env bash
# Make the certificate of a cluster, cert.pem, and its key, key.pem, in a folder.
set -euo pipefail

case "${1--h}" in
    -h | --help) echo "usage: certificate.sh FOLDER   (where cert.pem and key.pem go, which only you can read)"; exit 0 ;;
esac
# One for all: Dask asks whether the authority has signed, neither for a name nor for what was withdrawn. So a certificate
# a host would keep nobody out, and an authority whose key lies about could let somebody in.
umask 077
mkdir -p "$1"
rm -f "$1/cert.pem" "$1/key.pem"
openssl req -x509 -newkey rsa:2048 -nodes -days 400 -subj /CN=daskgmm \
    -keyout "$1/key.pem" -out "$1/cert.pem" 2>"$1/openssl.log" || { cat "$1/openssl.log" >&2; exit 69; }
rm "$1/openssl.log"
