# Ends a PostgreSQL server when the process that started it is gone, however it went.
#
# usage: watcher.sh DATA SIGNAL REMOVE...
# The owner holds the other end of standard input and writes `pid N` when a server starts, `pid` when it is gone
# and `done` when there is nothing left to watch. End of file without `done` means that the owner died: the server
# in DATA gets SIGNAL, and when it has ended the paths REMOVE are deleted.
trap '' HUP INT TERM
data=$1 signal=$2
shift 2

pid=
while read -r word number; do
    case $word in
        pid) pid=$number ;;
        done) exit 0 ;;
    esac
done

# The owner may have died between starting a server and telling its number.
if [ -z "$pid" ] && [ -r "$data/postmaster.pid" ]; then
    read -r pid <"$data/postmaster.pid"
fi
# A number that another process has by now is left alone.
if [ -n "$pid" ] && [ -d /proc/self ] && [ "$(readlink "/proc/$pid/cwd")" != "$data" ]; then
    pid=
fi
if [ -n "$pid" ]; then
    kill -s "$signal" "$pid" 2>/dev/null
    tries=0
    while kill -0 "$pid" 2>/dev/null && [ "$tries" -lt 400 ]; do
        tries=$((tries + 1))
        # A process that ended stays visible until somebody collects it.
        case $(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null) in Z*) break ;; esac
        [ "$tries" -eq 200 ] && kill -s QUIT "$pid" 2>/dev/null
        sleep 0.05
    done
    [ "$tries" -lt 400 ] || kill -s KILL "$pid" 2>/dev/null
fi
[ $# -eq 0 ] || rm -rf -- "$@"
