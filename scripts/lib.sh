# What the scripts share: installing what is missing, building, and servers
# that never outlive the script which started them.
#
# Sourced by the scripts here and by those in test, not run by itself.
# Everything a script makes lies in one fresh folder, $WORK, with the server's
# data and socket in it, so that scripts may run side by side.  The one thing
# they share is the installed extension: a lock orders the installs, and an
# install that would change nothing is left out.
#
# shellcheck shell=bash

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
WORK=
KEEP_WORK=no
OLDEST_POSTGRES=15

say() { printf '%s\n' "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# --------------------------------------------------------------------------
# who runs what

# Runs a command as root, through sudo where that is needed.
as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		die "not root, and sudo is not there to run: $*"
	fi
}

# Runs a command as the user that owns the servers.  PostgreSQL refuses to run
# as root, so that is the user postgres when root runs the script.
as_server() {
	if [ "$(id -u)" = 0 ]; then
		setpriv --reuid=postgres --regid=postgres --init-groups \
			env HOME="$WORK" "$@"
	else
		"$@"
	fi
}

# --------------------------------------------------------------------------
# the work folder and the end of the script

# begin_work NAME: makes $WORK and sees to it that nothing is left behind.
begin_work() {
	local base=${TMPDIR:-/tmp}

	# a socket's path is at most 107 bytes long
	if [ ${#base} -gt 55 ] || ! as_server test -w "$base" -a -x "$base" 2>/dev/null; then
		base=/tmp
	fi
	WORK=$(mktemp -d "$base/event_store-$1.XXXXXX")
	trap end_work EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
	give_to_server "$WORK"
	cd "$WORK"
}

# Lets the user that owns the servers write into a folder, where root runs the script.
give_to_server() {
	[ "$(id -u)" != 0 ] || ! getent passwd postgres >/dev/null || chown -R postgres: "$1"
}

# Prints the processes below a process, children last.
descendants() {
	local child

	# shellcheck disable=SC2013
	for child in $(cat /proc/"$1"/task/*/children 2>/dev/null); do
		echo "$child"
		descendants "$child"
	done
}

# Whether one of the processes still runs.
any_running() {
	local pid

	for pid in "$@"; do
		if grep -q '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$pid/status" 2>/dev/null; then
			return 0
		fi
	done
	return 1
}

end_work() {
	local status=$? pids=() file tries

	trap '' HUP INT TERM
	trap - EXIT
	# test drivers stop their own servers when they are told to
	mapfile -t pids < <(descendants $$)
	if [ ${#pids[@]} -gt 0 ]; then
		kill -TERM "${pids[@]}" 2>/dev/null || true
		for ((tries = 0; tries < 100; tries++)); do
			any_running "${pids[@]}" || break
			sleep 0.1
		done
	fi
	cd /
	if [ "$KEEP_WORK" != yes ] && [ -n "$WORK" ]; then
		# servers have left our process tree, but not our folder
		while IFS= read -r file; do
			stop_postmaster "$(dirname "$file")"
		done < <(find "$WORK" -name postmaster.pid 2>/dev/null)
		[ ! -d "$WORK/root" ] || as_root rm -rf --one-file-system "$WORK/root"
		rm -rf "$WORK"
	fi
	exit "$status"
}

# run COMMAND…: runs a command that a signal to the script does not wait for.
run() {
	"$@" &
	wait $!
}

# --------------------------------------------------------------------------
# packages

# Prints the packages among those given that are not installed.
missing_packages() {
	local package

	for package in "$@"; do
		dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null |
			grep -q '^.i' || echo "$package"
	done
}

# install_packages PACKAGE…: installs those that are missing, without starting
# a service or making a cluster of the machine's own.
install_packages() {
	local missing

	mapfile -t missing < <(missing_packages "$@")
	[ ${#missing[@]} -gt 0 ] || return 0
	say "Installing ${missing[*]}"
	refresh_packages
	# shellcheck disable=SC2016
	as_root flock /var/cache/apt/archives sh -euc '
		policy=/usr/sbin/policy-rc.d
		cluster=/etc/postgresql-common/createcluster.d/event_store.conf
		made_policy=no
		mkdir -p "${cluster%/*}"
		tidy() {
			rm -f "$cluster"
			if [ "$made_policy" = yes ]; then rm -f "$policy"; fi
		}
		trap tidy EXIT
		trap "exit 130" INT
		trap "exit 143" TERM
		echo "create_main_cluster = false" > "$cluster"
		if [ ! -e "$policy" ]; then
			made_policy=yes
			printf "#!/bin/sh\nexit 101\n" > "$policy"
			chmod 755 "$policy"
		fi
		services=
		is_service() {
			[ -e "/etc/init.d/$1" ] || [ -e "/lib/systemd/system/$1.service" ]
		}
		for service in pgbouncer prometheus prometheus-postgres-exporter prometheus-sql-exporter nats-server nginx; do
			is_service "$service" || services="$services $service"
		done
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
			-o DPkg::Lock::Timeout=300 --no-install-recommends "$@" \
			> /tmp/event_store-apt.$$ 2>&1 < /dev/null || {
			cat /tmp/event_store-apt.$$ >&2
			rm -f /tmp/event_store-apt.$$
			exit 1
		}
		rm -f /tmp/event_store-apt.$$
		# what is a service shall not come up with the next boot either
		for service in $services; do
			is_service "$service" || continue
			systemctl disable "$service" > /dev/null 2>&1 ||
				update-rc.d "$service" disable > /dev/null 2>&1 || true
		done
	' sh "${missing[@]}" || die "cannot install ${missing[*]}"
}

# make_root RELEASE FOLDER: makes a clean root of a release of the distribution there,
# with a copy of the sources in /event_store; what it says is shown if it fails.
make_root() {
	local release=$1 root=$2 log=$WORK/root.log

	install_packages debootstrap
	run as_root debootstrap --variant=minbase --include=ca-certificates,git \
		"$release" "$root" >"$log" 2>&1 || {
		tail -5 "$log" >&2
		return 1
	}
	as_root cp /etc/resolv.conf /etc/hosts "$root/etc/"
	as_root install -d -o "$(id -u)" "$root/event_store"
	copy_tree "$root/event_store"
}

# in_root ROOT COMMAND…: runs a command there; all that it starts ends with it.  The root
# is a mount of its own, without which nothing could make a root within it.
in_root() {
	local root=$1

	shift
	# shellcheck disable=SC2016
	as_root unshare --mount --pid --fork --kill-child sh -euc '
		root=$1
		shift
		mount --bind "$root" "$root"
		mount -t proc proc "$root/proc"
		mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
		mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
		exec chroot "$root" env -i HOME=/root LANG=C.UTF-8 TERM="${TERM:-dumb}" \
			PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
	' sh "$root" "$@"
}

# Reads the package lists, once in a script.
PACKAGES_FRESH=no
refresh_packages() {
	[ $PACKAGES_FRESH = no ] || return 0
	as_root flock /var/cache/apt/archives apt-get update -qq \
		-o DPkg::Lock::Timeout=300 >/dev/null </dev/null ||
		die "cannot read the package lists"
	PACKAGES_FRESH=yes
}

# Prints the newest major version whose server is installed, or nothing.
installed_major() {
	local program

	for program in /usr/lib/postgresql/*/bin/postgres; do
		[ -x "$program" ] || continue
		program=${program#/usr/lib/postgresql/}
		echo "${program%%/*}"
	done | sort -n | tail -1
}

# find_postgres [PACKAGE…]: installs what a build needs and the packages given,
# where @ stands for the major version; sets PG_CONFIG, BINDIR and MAJOR.  An
# installation that the caller names in PG_CONFIG is taken as it is.
find_postgres() {
	local package

	if [ -n "${PG_CONFIG:-}" ]; then
		MAJOR=$("$PG_CONFIG" --version | grep -oE '[0-9]+' | head -1)
		install_packages "${@//@/$MAJOR}"
	else
		command -v apt-get >/dev/null ||
			die "this machine has no apt-get; install PostgreSQL and set PG_CONFIG"
		MAJOR=$(installed_major)
		if [ -z "$MAJOR" ]; then
			refresh_packages
			MAJOR=$(apt-cache depends postgresql |
				grep -oE 'postgresql-[0-9]+' | head -1 | grep -oE '[0-9]+') ||
				die "no package postgresql here"
		fi
		[ "$MAJOR" -ge $OLDEST_POSTGRES ] ||
			die "PostgreSQL $MAJOR is too old: $OLDEST_POSTGRES or later is needed (see https://apt.postgresql.org)"
		install_packages gcc make "postgresql-$MAJOR" \
			"postgresql-server-dev-$MAJOR" "${@//@/$MAJOR}"
		PG_CONFIG=/usr/lib/postgresql/$MAJOR/bin/pg_config
	fi
	BINDIR=$("$PG_CONFIG" --bindir)
	export PG_CONFIG BINDIR MAJOR
}

# copy_postgres FOLDER: copies the installation into the folder and goes on with
# the copy, so that what is installed stays as it is.  PostgreSQL finds its files
# by their place relative to its programs; so a copy can be copied in turn.
copy_postgres() {
	local copy=$1 folder copied=:

	for folder in --bindir --pkglibdir --sharedir --includedir --includedir-server; do
		folder=$("$PG_CONFIG" $folder)
		case $copied in *:"$folder":*) continue ;; esac
		copied=$copied$folder:
		mkdir -p "$copy$folder"
		tar -C "$folder" --exclude=./bitcode -cf - . | tar -C "$copy$folder" -xf -
	done
	if [ "$(id -u)" = 0 ]; then
		chown -R postgres: "$copy"
	fi
	PG_CONFIG=$copy$("$PG_CONFIG" --bindir)/pg_config
	BINDIR=$("$PG_CONFIG" --bindir)
	case $BINDIR in "$copy"/*) ;; *) die "this PostgreSQL cannot be moved" ;; esac
	export PG_CONFIG BINDIR
}

# --------------------------------------------------------------------------
# building

# copy_tree FOLDER: copies the sources, without what a build made, and the
# data that tests look for beside the project's folder.
copy_tree() {
	mkdir -p "$1"
	tar -C "$ROOT" -cf - --exclude=./.git --exclude='*.o' --exclude='*.d' --exclude='*.tmp' --exclude='*.so' \
		--exclude='*.bc' --exclude='./event_store--*.sql' --exclude=./dist \
		--exclude=./node_modules . | tar -C "$1" --no-same-owner -xf -
	if [ -d "$ROOT/../shared/data" ] && [ ! -e "$1/../shared" ]; then
		mkdir -p "$1/../shared"
		cp -r "$ROOT/../shared/data" "$1/../shared/data"
	fi
	give_to_server "$1"
}

# names_in FOLDER ENDING: prints the names of the files of the tree that have this
# ending, without it.
names_in() {
	local file

	for file in "$ROOT/$1"/*"$2"; do
		[ ! -e "$file" ] || basename "$file" "$2"
	done
}

# build FOLDER LOG [MAKE ARGUMENT…]: builds in a copy of the tree.
build() {
	local folder=$1 log=$2

	shift 2
	# the folder's name differs from run to run; what is built must not
	run as_server make -C "$folder" -j"$(nproc)" PG_CONFIG="$PG_CONFIG" \
		PG_CFLAGS="-ffile-prefix-map=$folder=." "$@" >"$log" 2>&1
}

# Prints whether what was built in a folder is what is installed.
is_installed() {
	local folder=$1 file
	local extensions
	extensions=$("$PG_CONFIG" --sharedir)/extension

	cmp -s "$folder/event_store.so" "$("$PG_CONFIG" --pkglibdir)/event_store.so" ||
		return 1
	for file in "$folder"/event_store.control "$folder"/event_store--*.sql \
		"$folder"/schema/released/*.sql; do
		cmp -s "$file" "$extensions/${file##*/}" || return 1
	done
}

# install_extension FOLDER LOG [MAKE ARGUMENT…]: installs what build made there.
install_extension() {
	local folder=$1 log=$2
	local library installer=()

	shift 2
	is_installed "$folder" && return 0
	library=$("$PG_CONFIG" --pkglibdir)
	[ -w "$library" ] || installer=(as_root)
	run "${installer[@]}" flock "$library" make -C "$folder" -s install \
		PG_CONFIG="$PG_CONFIG" PG_CFLAGS="-ffile-prefix-map=$folder=." "$@" >"$log" 2>&1
}

# --------------------------------------------------------------------------
# servers

# start_server NAME [LINE OF postgresql.conf…]: starts a server of our own,
# reached only through a socket in its folder, and points libpq to it.
start_server() {
	local name=$1 line
	SERVER=$WORK/$name

	shift
	mkdir "$SERVER"
	if [ "$(id -u)" = 0 ]; then
		chown postgres: "$SERVER"
	fi
	chmod 700 "$SERVER"
	as_server "$BINDIR/initdb" -D "$SERVER/data" -U postgres --auth=trust \
		--encoding=UTF8 --locale=C.UTF-8 --no-instructions \
		>"$SERVER.initdb" 2>&1 || { cat "$SERVER.initdb" >&2; return 1; }
	for line in \
		"listen_addresses = ''" \
		"unix_socket_directories = '$SERVER'" \
		"shared_preload_libraries = 'event_store'" \
		"max_connections = 100" \
		"max_locks_per_transaction = 64" \
		"log_line_prefix = '%m %b[%p] '" \
		"$@"; do
		printf '%s\n' "$line"
	done | as_server tee -a "$SERVER/data/postgresql.conf" >/dev/null
	as_server "$BINDIR/pg_ctl" -D "$SERVER/data" -l "$SERVER/log" -w -t 120 -s \
		start >"$SERVER.start" 2>&1 </dev/null || {
		cat "$SERVER.start" "$SERVER/log" >&2
		return 1
	}
	export PGHOST=$SERVER PGPORT=5432 PGUSER=postgres PGDATABASE=postgres
}

# stop_server NAME: an orderly stop of a server of ours.
stop_server() {
	as_server "$BINDIR/pg_ctl" -D "$WORK/$1/data" -m fast -w -t 120 -s stop
}

# Ends whatever runs in a data folder, without care for the data.
stop_postmaster() {
	local data=$1 pid

	pid=$(head -1 "$data/postmaster.pid" 2>/dev/null) || return 0
	as_server "$BINDIR/pg_ctl" -D "$data" -m immediate -w -t 20 -s stop \
		>/dev/null 2>&1 || kill -KILL "$pid" 2>/dev/null || true
}

# psql with nothing of the caller's own in it.
sql() {
	as_server "$BINDIR/psql" -X -q -v ON_ERROR_STOP=1 "$@"
}
