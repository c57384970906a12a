"""The decoder against Zydis on every instruction of Debian's kernel."""
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import assets  # noqa: E402
import unpack_vmlinux  # noqa: E402
import vm  # noqa: E402

ORACLE = vm.BUILT / "lib/isa/x86/decode_oracle_test"


@pytest.fixture(scope="module")
def vmlinux(tmp_path_factory):
    path = tmp_path_factory.mktemp("kernel") / "vmlinux"
    path.write_bytes(unpack_vmlinux.unpack(assets.kernel().read_bytes()))
    return path


@pytest.mark.skipif(not ORACLE.exists(), reason="built without Zydis")
def test_kernel_decodes_as_zydis_says(vmlinux):
    done = subprocess.run([ORACLE, "--elf", vmlinux], stdout=subprocess.PIPE, text=True)
    compared, wrong = map(int, re.search(r"compared (\d+),.* wrong (\d+)",
                                         done.stdout).groups())
    print(done.stdout)
    assert done.returncode == 0 and wrong == 0
    assert compared > 1_000_000
