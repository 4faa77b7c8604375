#!/bin/sh
# Create the secrets that compose.yaml names: `sh deploy/secrets.sh`. Existing ones are kept.
set -eu
cd "$(dirname "$0")"
mkdir -p secrets
chmod 711 secrets # the containers' users may read the files, and nothing else

new() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
keep() { [ -e "secrets/$1" ] || { printf '%s\n' "$2" >"secrets/$1" && chmod 644 "secrets/$1"; }; }

keep postgres_password "$(new)"
keep redis_conf "requirepass $(new)"
keep grafana_password "$(new)"
keep database_url "postgresql://pneumowatch:$(cat secrets/postgres_password)@postgres/pneumowatch"
keep broker_url "redis://:$(sed -n 's/^requirepass //p' secrets/redis_conf)@redis:6379/0"
echo "The secrets are in $(pwd)/secrets. Keep a copy in a safe place."
