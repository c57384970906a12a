# Sourced by ./dev: the build trees.

tree_names="release asan tsan fuzz"

# Meson options of one tree; b_lundef: sanitizers leave symbols to their runtime.
tree_options() {
    case $1 in
    release) ;;
    asan) echo "-Db_sanitize=address,undefined -Db_lundef=false" ;;
    tsan) echo "-Db_sanitize=thread -Db_lundef=false" ;;
    fuzz) echo "-Dfuzz=true -Db_sanitize=address,undefined -Db_lundef=false" ;;
    esac
}

configure() {
    local compiler=${CC:-gcc}
    [ ! -f "build/$1/build.ninja" ] || return 0
    [ "$1" != fuzz ] || compiler=clang
    # A half-made tree of an interrupted setup is made again.
    rm -rf "build/$1"
    # shellcheck disable=SC2046 # several words are meant
    CC=$compiler meson setup "build/$1" $(tree_options "$1") >&2
}

build_one() {
    configure "$1"
    # Progress is for a person; a log wants only what went wrong.
    [ -t 2 ] || set -- "$1" --quiet
    ninja -C "build/$1" "${@:2}" >&2 || die "build/$1: the build failed"
    if [ "$1" = release ]; then
        "$PYTHON" tools/link_programs.py build/release build/bin
    fi
}

# build [TREE...]
build() {
    local tree
    [ $# -gt 0 ] || set -- release
    # shellcheck disable=SC2086 # several words are meant
    [ "$*" != all ] || set -- $tree_names
    for tree in "$@"; do
        case " $tree_names " in
        *" $tree "*) ;;
        *) die "no build tree '$tree' (there are: $tree_names all)" ;;
        esac
    done
    for tree in "$@"; do
        build_one "$tree"
    done
}
