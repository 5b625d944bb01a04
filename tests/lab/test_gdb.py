"""Debian's gdb on a stock kernel on a real KVM. The CPU is Bochs's: guests of QEMU's TCG leave for no INT3 and have no debug registers."""
import os
import re
import shutil
import subprocess

import pytest

import initramfs
import lab as the_lab

GDB = "/usr/bin/gdb"


def python_of_gdb():
    """{path in L1: path} of what gdb's Python loads when it starts, without which gdb does not."""
    code = "python import sys; print('\\n'.join({m.__spec__.origin for m in sys.modules.values() if getattr(m, '__spec__', None) and m.__spec__.origin}))"
    told = subprocess.run([GDB, "-nx", "-batch", "-ex", code], capture_output=True, text=True, check=True).stdout
    return {path: path for path in told.split("\n") if path.endswith(".py")}


@pytest.fixture(scope="session")
def symbols(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("symbols") / "vmlinux")
    subprocess.run([os.path.join(the_lab.ROOT, "tools", "kernel-symbols.py"), os.path.join(initramfs.GUEST, "cloud", "vmlinux"), path], check=True)
    return path


@pytest.mark.soak
@pytest.mark.skipif(not shutil.which(GDB), reason="gdb is not installed")
def test_a_stock_kernel_is_stopped_stepped_and_watched_and_goes_on(lab, symbols):
    output = lab("kvm_gdb.sh", ["1"], emulator="bochs", limit_s=900, programs=(GDB,), files={"symbols": symbols} | python_of_gdb()).output
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
