# Sourced by ./dev: installs the Debian packages that a command needs and lacks.

# Print the packages of the groups in "$@" (all groups without arguments).
packages_of() {
    local package groups reason group
    while read -r package groups reason; do
        case $package in '' | '#'*) continue ;; esac
        if [ $# -eq 0 ]; then
            echo "$package"
        fi
        for group in "$@"; do
            case ",$groups," in *",$group,"*) echo "$package" ;; esac
        done
    done <tools/packages.txt
}

reason_of() {
    local package groups reason
    while read -r package groups reason; do
        if [ "$package" = "$1" ]; then
            echo "$reason"
        fi
    done <tools/packages.txt
}

# One dpkg-query for all: it is on the path of every ./dev command.
missing_of() {
    local have package
    # shellcheck disable=SC2016 # dpkg's own format, not a variable
    have=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null || true)
    for package in "$@"; do
        grep -qx "installed $package" <<<"$have" || echo "$package"
    done
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "not root and no sudo: run as root: $*"
    fi
}

# The package lists are fetched only when they do not know a package.
apt_update_if_needed() {
    local package
    for package in "$@"; do
        if ! apt-cache show --no-all-versions "$package" >/dev/null 2>&1; then
            say "apt-get update: the package lists here do not know $package"
            as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q
            return
        fi
    done
}

apt_install() {
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends "$@"
}

# setup_groups GROUP...: install what is missing of these groups.
setup_groups() {
    local missing package
    if ! command -v dpkg-query >/dev/null; then
        say "this is no Debian: have these yourself: $(packages_of "$@" | tr '\n' ' ')"
        return
    fi
    # shellcheck disable=SC2046 # package names are single words
    missing=$(missing_of $(packages_of "$@"))
    if [ -z "$missing" ]; then
        return
    fi
    say "installing Debian packages:"
    for package in $missing; do
        printf '    %-22s %s\n' "$package" "$(reason_of "$package")" >&2
    done
    # shellcheck disable=SC2086 # same
    set -- $missing
    apt_update_if_needed "$@"
    if ! apt_install "$@" >&2; then
        say "apt-get install failed; once more with fresh package lists"
        as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q >&2
        apt_install "$@" >&2 || die "apt-get could not install: $*"
    fi
}
