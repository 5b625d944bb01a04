"""Networks of the default guest: user mode with DHCP, transfers and a forwarded port; a tap in a network namespace of its own."""
import contextlib
import os
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

import name_server
import server
import vm

MIB = 1 << 20
SIZE = 24 * MIB
SOAK_SIZE = 100 * MIB
TRANSFER_TIMEOUT = 4 * vm.TIMEOUT


def free_port():
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as s:
        return s.getsockname()[1]


def wait_for_address(guest, prefix, interface="eth0"):
    guest.run(f"n=0; until ip -4 addr show {interface} | grep -q 'inet {prefix}'; do n=$((n + 1)); [ $n -lt 300 ] || break; sleep 0.1; done")
    assert re.search(rf"inet {re.escape(prefix)}", guest.run(f"ip -4 addr show {interface}"))


def md5(data):
    return server.hashlib.md5(data).hexdigest()


def transfer_both_ways(guest, address, port, size):
    """Down into a file, its checksum, and up again; the server tells the checksum of what it got. busybox's wget can post only text."""
    wanted = md5(server.data(size))
    guest.run(f"wget -q -O /tmp/f http://{address}:{port}/{size}", TRANSFER_TIMEOUT)
    assert guest.run("md5sum </tmp/f", TRANSFER_TIMEOUT).split()[0] == wanted
    head = rf"POST / HTTP/1.0\r\nContent-Length: {size}\r\n\r\n"
    answer = guest.run(f"{{ printf '{head}'; cat /tmp/f; }} | nc {address} {port} | tail -n 1", TRANSFER_TIMEOUT)
    assert answer.strip() == wanted
    guest.run("rm /tmp/f")


@pytest.fixture(scope="module")
def host_server():
    s = server.start()
    yield s
    s.shutdown()


@pytest.fixture(scope="module")
def forwarded_port():
    return free_port()


@pytest.fixture(scope="module")
def online(forwarded_port):
    """A guest with a user-mode network, and its address."""
    with vm.Vm(memory="1G", nets=[f"user,hostfwd=tcp:{forwarded_port}:80"]) as guest:
        guest.prompt()
        wait_for_address(guest, "10.0.2.15/24")
        yield guest


def test_dhcp_gives_an_address_a_route_and_a_name_server(online):
    assert "default via 10.0.2.2 dev eth0" in online.run("ip route")
    assert online.run("cat /etc/resolv.conf") == "nameserver 10.0.2.3\n"
    assert "3 packets received" in online.run("ping -c 3 -i 0.2 10.0.2.2")


@pytest.mark.parametrize("size", [SIZE, pytest.param(SOAK_SIZE, marks=pytest.mark.soak)])
def test_files_pass_the_user_mode_network_unchanged(online, host_server, size):
    transfer_both_ways(online, "10.0.2.2", host_server.server_port, size)


def test_many_connections_at_once(online, host_server):
    wanted = md5(server.data(300000))
    output = online.run(f"for i in $(seq 20); do wget -q -O - http://10.0.2.2:{host_server.server_port}/300000 | md5sum & done; wait", TRANSFER_TIMEOUT)
    assert re.findall(r"[0-9a-f]{32}", output) == [wanted] * 20


def test_a_port_of_the_host_leads_into_the_guest(online, host_server, forwarded_port):
    online.run(f"mkdir -p /tmp/www; wget -q -O /tmp/www/f http://10.0.2.2:{host_server.server_port}/{4 * MIB}; httpd -p 80 -h /tmp/www")
    with urllib.request.urlopen(f"http://127.0.0.1:{forwarded_port}/f", timeout=TRANSFER_TIMEOUT * vm.SCALE) as answer:
        assert md5(answer.read()) == md5(server.data(4 * MIB))
    online.run("killall httpd; rm -r /tmp/www")


def test_the_guest_reads_from_a_forwarded_connection(online, forwarded_port):
    """The host's end of file reaches the guest, and its answer comes back."""
    online.send("nc -l -p 80 -e md5sum; echo d''one\r")
    data = server.data(2 * MIB)
    deadline = time.monotonic() + vm.TIMEOUT * vm.SCALE
    while True:
        # The user-mode network takes the connection before it knows whether somebody in the guest does.
        with socket.create_connection(("127.0.0.1", forwarded_port)) as s:
            with contextlib.suppress(OSError):
                s.sendall(data)
                s.shutdown(socket.SHUT_WR)
                answer = b"".join(iter(lambda: s.recv(4096), b""))
                if answer:
                    break
        assert time.monotonic() < deadline, "nobody answers"
        time.sleep(0.2)
    assert answer.split()[0].decode() == md5(data)
    online.expect(r"done\r")
    online.prompt()


def test_the_network_leaves_no_complaint(online):
    assert not re.search(r"NETDEV WATCHDOG|BUG:|WARNING:|Call Trace|virtio.*(broken|reset)", online.run("dmesg"))
    counters = online.run("cat /sys/class/net/eth0/statistics/[rt]x_errors")
    assert counters.split() == ["0", "0"]


def skip_unless_possible(command, what):
    """Runs a command that makes namespaces."""
    check = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if check.returncode:
        pytest.skip(f"no {what} in a namespace of an ordinary user here: {check.stdout.strip()}")


def test_names_are_resolved_through_the_host():
    skip_unless_possible(["unshare", "-Urnm", "true"], "name server")
    with vm.Vm(nets=["user"], wrapper=name_server.command()) as guest:
        guest.prompt()
        wait_for_address(guest, "10.0.2.15/24")
        assert name_server.ADDRESS in guest.run(f"nslookup -type=a {name_server.NAME}")
        status, output = guest.status_and_output("nslookup -type=a nobody.example")
        assert status == 1 and "NXDOMAIN" in output, output


# --- tap: the namespace belongs to the guest's process, and so does the interface, of an ordinary user ---

TAP_HOST, TAP_GUEST, TAP_PORT = "10.9.8.1", "10.9.8.2", 8000


def tap_wrapper():
    """A command that makes user and network namespaces with tap0 and a server, and becomes what follows it."""
    here = os.path.dirname(os.path.abspath(__file__))
    script = ("ip link set lo up && ip tuntap add tap0 mode tap vnet_hdr && "
              f"ip addr add {TAP_HOST}/24 dev tap0 && ip link set tap0 up || exit 99; "
              f"{shlex.quote(sys.executable)} {shlex.quote(os.path.join(here, 'server.py'))} {TAP_HOST} {TAP_PORT} & exec \"$@\"")
    return ["unshare", "-Urn", "sh", "-c", script, "sh"]


@pytest.fixture(scope="module")
def tap_guest():
    skip_unless_possible(["unshare", "-Urn", "sh", "-c", "PATH=$PATH:/sbin:/usr/sbin ip tuntap add tap0 mode tap vnet_hdr"], "tap")
    with vm.Vm(memory="1G", nets=["tap=tap0"], wrapper=tap_wrapper(), env={"PATH": os.environ["PATH"] + ":/sbin:/usr/sbin"}) as guest:
        guest.prompt()
        guest.run(f"killall udhcpc; sleep 0.2; ip addr flush dev eth0; ip addr add {TAP_GUEST}/24 dev eth0; ip link set eth0 up")
        yield guest


def test_the_tap_answers(tap_guest):
    assert "3 packets received" in tap_guest.run(f"ping -c 3 -i 0.2 {TAP_HOST}")
    assert "3 packets received" in tap_guest.run(f"ping -c 3 -i 0.2 -s 1400 {TAP_HOST}")


@pytest.mark.parametrize("size", [SIZE, pytest.param(SOAK_SIZE, marks=pytest.mark.soak)])
def test_files_pass_the_tap_unchanged(tap_guest, size):
    transfer_both_ways(tap_guest, TAP_HOST, TAP_PORT, size)


def test_checksums_and_segmentation_are_the_hosts(tap_guest):
    """The bits of VIRTIO_NET_F_CSUM, GUEST_CSUM, GUEST_TSO4, HOST_TSO4 and MRG_RXBUF (virtio 1.2 5.1.3) are negotiated."""
    bits = tap_guest.run("cat /sys/class/net/eth0/device/features").strip()
    assert [bits[n] for n in (0, 1, 7, 11, 15)] == ["1"] * 5


@pytest.mark.umbra_only
def test_two_networks_are_two_interfaces(host_server):
    with vm.Vm(nets=["user,mac=52:54:00:12:34:01", "user,mac=52:54:00:12:34:02"]) as guest:
        guest.prompt()
        wait_for_address(guest, "10.0.2.15/24")
        assert guest.run("cat /sys/class/net/eth*/address") == "52:54:00:12:34:01\n52:54:00:12:34:02\n"
        guest.run("ip addr flush dev eth0; ip link set eth0 down; /etc/network eth1")
        wait_for_address(guest, "10.0.2.15/24", "eth1")
        assert guest.run(f"wget -q -O - http://10.0.2.2:{host_server.server_port}/100000 | md5sum").split()[0] == md5(server.data(100000))
