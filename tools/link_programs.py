"""Leave every program of a build tree in one folder, as relative links.

usage: link_programs.py TREE BIN

A program is an executable that Meson would install; tests are not.
"""
import json
import os
import pathlib
import subprocess
import sys


def programs(tree):
    out = subprocess.run(["meson", "introspect", "--targets", tree], check=True,
                         stdout=subprocess.PIPE).stdout
    for target in json.loads(out):
        if target["type"] == "executable" and target["installed"]:
            yield pathlib.Path(target["filename"][0])


def main():
    tree, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {p.name: os.path.relpath(p, folder.resolve()) for p in programs(tree)}
    for old in folder.iterdir():
        if not old.is_symlink() or wanted.get(old.name) != os.readlink(old):
            old.unlink()
    for name, target in wanted.items():
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(target)


if __name__ == "__main__":
    main()
