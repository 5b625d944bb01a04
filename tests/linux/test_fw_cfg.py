"""Linux's driver of the firmware configuration device finds it by ACPI and shows the user's files."""
import hashlib
import os

import pytest

import programs
import vm

MODULE = os.path.join(vm.GUEST, "cloud", "modules", "kernel", "drivers", "firmware", "qemu_fw_cfg.ko")
BY_NAME = "/sys/firmware/qemu_fw_cfg/by_name"


@pytest.fixture
def initrd(tmp_path):
    """The default guest with the driver, which it does not need itself."""
    with open(vm.INITRD, "rb") as f:
        image = f.read()
    with open(MODULE, "rb") as f:
        image += b"\0" * (-len(image) % 4) + programs.cpio_entry("qemu_fw_cfg.ko", 0o100644, f.read()) + programs.cpio_entry("TRAILER!!!", 0)
    (tmp_path / "initrd").write_bytes(image)
    return str(tmp_path / "initrd")


def test_linux_finds_the_device_and_reads_its_files(tmp_path, initrd):
    content = os.urandom(70001)
    (tmp_path / "blob").write_bytes(content)
    (tmp_path / "line").write_bytes(b"a line\n")
    flag = "-fw_cfg" if vm.IS_QEMU else "--fw-cfg"
    value = "name={},file={}" if vm.IS_QEMU else "{}={}"
    extra = [flag, value.format("opt/org.example/blob", tmp_path / "blob"), flag, value.format("opt/org.example/line", tmp_path / "line")]
    with vm.Vm(initrd=initrd, extra=extra) as guest:
        guest.prompt()
        assert "QEMU0002" in guest.run("cat /sys/bus/acpi/devices/QEMU0002:00/hid")
        guest.run("insmod /qemu_fw_cfg.ko")
        assert guest.run("cat /sys/firmware/qemu_fw_cfg/rev") == "3\n"
        assert guest.run(f"cat {BY_NAME}/opt/org.example/line/raw") == "a line\n"
        assert guest.run(f"cat {BY_NAME}/opt/org.example/blob/size") == "70001\n"
        guest_sum = guest.run(f"sha256sum <{BY_NAME}/opt/org.example/blob/raw").split()[0]
    assert guest_sum == hashlib.sha256(content).hexdigest()
