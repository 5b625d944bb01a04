"""Debian's gdb on a stock kernel on a real KVM. The CPU is Bochs's: guests of QEMU's TCG leave for no INT3 and have no debug registers."""
import os
import re
import shutil
import subprocess

import pytest

import initramfs
import lab as the_lab

GDB = "/usr/bin/gdb"


# Where a module's compiled form is there, L1 has that alone.
MODULES = """python
import os, sys
for spec in {id(s): s for m in sys.modules.values() if (s := getattr(m, "__spec__", None)) and s.has_location}.values():
    print(spec.origin + "c", spec.cached) if os.path.exists(spec.cached) else print(spec.origin, spec.origin)
end
"""


def python_of_gdb(folder):
    """{path in L1: path} of what the Python in gdb loads when it starts in L1's locale; without these gdb does not start."""
    (folder / "modules").write_text(MODULES)
    listed = subprocess.run([GDB, "-nx", "-batch", "-x", folder / "modules"], env={"LC_ALL": "C", "PYTHONNOUSERSITE": "1"},
                            stdout=subprocess.PIPE, text=True, check=True).stdout
    return dict(line.split() for line in listed.splitlines())


@pytest.fixture(scope="session")
def symbols(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("symbols") / "vmlinux")
    subprocess.run([os.path.join(the_lab.ROOT, "tools", "kernel-symbols.py"), os.path.join(initramfs.GUEST, "cloud", "vmlinux"), path], check=True)
    return path


@pytest.mark.soak
@pytest.mark.skipif(not shutil.which(GDB), reason="gdb is not installed")
def test_a_stock_kernel_is_stopped_stepped_and_watched_and_goes_on(lab, symbols, tmp_path):
    output = lab("kvm_gdb.sh", emulator="bochs", limit_s=900, programs=(GDB,), files={"symbols": symbols} | python_of_gdb(tmp_path)).output
    steps = dict(re.findall(r"^--- (\w+)\n(.*?)(?=^--- |^\[Inferior)", output, re.M | re.S))
    assert re.search(r"#0  0x\w+ in do_sys_openat2 \(\)\n#1  0x\w+ in __x64_sys_openat \(\)\n#2  0x\w+ in do_syscall_64 \(\)\n", steps["break"]), output
    assert "<do_sys_openat2+10>" in steps["stepi"], output
    assert "in __x64_sys_openat ()" in steps["finish"], output
    assert re.search(r"Hardware assisted breakpoint \d+ at (?s:.*)#0  0x\w+ in vfs_read \(\)", steps["hbreak"]), output
    changes = re.findall(r"Old value = (\d+)\nNew value = (\d+)\n", steps["watch"])
    assert len(changes) == 2 and all(int(new) > int(old) for old, new in changes), output
    assert re.search(r"^#\d+ +0x\w+ in tick_do_update_jiffies64 \(\)", steps["watch"], re.M), output
    assert re.search(r"Hardware access \(read/write\) watchpoint \d+: .*\n\n(Value|Old value) = \d+", steps["awatch"]), output
    assert re.findall(r"Thread (\d) \(CPU \d", steps["threads"]) == ["1"], output
