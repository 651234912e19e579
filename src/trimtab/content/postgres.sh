#!/bin/sh
# Makes a PostgreSQL cluster in $PGDATA once, then becomes the server. Killed at any point, the next start goes on from there:
# the cluster is made beside its place and moved into it whole, so that $PGDATA is either complete or not there.
set -eu

fail() {
    echo "postgres: $*" >&2
    exit 1
}

read_secret() { # NAME: $NAME, or what is in the file $NAME_FILE
    eval "value=\${$1:-} file=\${$1_FILE:-}"
    if [ -n "$file" ]; then
        [ -r "$file" ] || fail "$1_FILE names $file, which cannot be read"
        value=$(cat "$file")
    fi
    printf %s "$value"
}

if [ "$(id -u)" = 0 ]; then
    # Root owns a new volume. Take it over, then start again as the user that the server runs as.
    mkdir -p "${PGDATA%/*}" /run/postgresql
    chown 999:999 "${PGDATA%/*}" /run/postgresql
    [ ! -d "$PGDATA" ] || [ "$(stat -c %u "$PGDATA")" = 999 ] || chown -R 999:999 "$PGDATA"
    exec chroot --userspec=999:999 --groups= / "$0" "$@"
fi

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    [ -w "${PGDATA%/*}" ] || fail "cannot write ${PGDATA%/*}; the volume must belong to group $(id -g) (securityContext.fsGroup: $(id -g))"
    [ ! -e "$PGDATA" ] || rmdir "$PGDATA" 2>/dev/null || fail "$PGDATA is there but holds no PostgreSQL cluster; empty it or choose another volume"
    user=$(read_secret POSTGRES_USER)
    user=${user:-postgres}
    database=$(read_secret POSTGRES_DB)
    database=${database:-$user}
    password=$(read_secret POSTGRES_PASSWORD)
    [ -n "$password" ] || fail "no password: set POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE"

    making=$PGDATA.making
    rm -rf "$making"
    umask 077
    printf '%s\n' "$password" >"$making.password"
    initdb --pgdata="$making" --username="$user" --pwfile="$making.password" --encoding=UTF8 --locale=C.UTF-8 \
        --auth-local=trust --auth-host=scram-sha-256 --no-instructions >&2
    rm -f "$making.password"
    printf 'host all all all scram-sha-256\n' >>"$making/pg_hba.conf"
    if [ "$database" != postgres ]; then
        quoted=$(printf %s "$database" | tr '\n' ' ' | while IFS= read -r line || [ -n "$line" ]; do
            while case $line in *\"*) true ;; *) false ;; esac do
                printf '%s""' "${line%%\"*}"
                line=${line#*\"}
            done
            printf %s "$line"
        done)
        printf 'CREATE DATABASE "%s"\n' "$quoted" | postgres --single -D "$making" postgres >/dev/null
    fi
    sync
    mv "$making" "$PGDATA"
    sync
fi

# An fsGroup opens the whole volume to its group at every mount; the server starts on nothing wider than 0750.
chmod 00700 "$PGDATA"
exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/run/postgresql "$@"
