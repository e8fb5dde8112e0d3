#!/bin/sh
# Entry point of the MariaDB image: makes the database on the first start, then runs the server as it is told.
#
#   arguments: further options of mariadbd
set -eu
data=${MARIADB_DATA:-/var/lib/mysql}
mkdir -p "$data" /run/mysqld
# A fresh ext4 file system has a directory of its own, so the database lies one level below.
# InnoDB reserves 8 TiB of addresses for a larger buffer pool, more than a User-Mode Linux process has.
options="--no-defaults --user=root --innodb-log-file-size=16M --innodb-buffer-pool-size=64M --loose-innodb-buffer-pool-size-max=64M"
if [ ! -d "$data/db/mysql" ]; then
  rm -rf "$data/new"
  # shellcheck disable=SC2086
  mariadb-install-db $options --datadir="$data/new" --auth-root-authentication-method=normal --skip-test-db --force >/dev/null
  sync
  mv "$data/new" "$data/db"
fi
# shellcheck disable=SC2086
exec mariadbd $options --datadir="$data/db" --socket=/run/mysqld/mysqld.sock --pid-file=/run/mysqld/mysqld.pid \
  --bind-address=0.0.0.0 --innodb-flush-log-at-trx-commit=1 --sync-binlog=1 --performance-schema=OFF "$@"
