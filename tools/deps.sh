#!/bin/sh
# Installs what is missing of a group's Debian packages: tools/deps.sh build|guest|image|test|bench|lab
#
# Asks dpkg first, so that it costs nothing where all is there. Without root it uses sudo, or says what to type.
set -eu

case ${1-} in
build) packages="gcc libc6-dev make pkg-config libzydis-dev libjansson-dev libzstd-dev liblz4-dev liblzma-dev zlib1g-dev liburing-dev libslirp-dev acpica-tools \
    systemtap-sdt-dev" ;;
guest) packages="apt dpkg cpio gzip kmod python3 zstd lz4 xz-utils e2fsprogs" ;;
image) packages="mmdebstrap debian-archive-keyring fakeroot uidmap openssh-client" ;;
test) packages="libcmocka-dev python3-pytest gcc-multilib binutils clang clang-format clang-tidy cppcheck libclang-rt-14-dev \
    busybox-static procps util-linux iproute2 openssh-client fio gdb bpftrace" ;;
lab) packages="python3 python3-pytest qemu-system-x86 bochs bochs-term bochsbios vgabios isolinux syslinux-common genisoimage gdb" ;;
bench) packages="gcc libc6-dev python3 qemu-system-x86 util-linux iproute2" ;;
*)
    echo "usage: tools/deps.sh build|guest|image|test|bench|lab" >&2
    exit 2
    ;;
esac

missing=
for package in $packages; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || status=
    [ "$status" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

as_root=
if [ "$(id -u)" != 0 ]; then
    if ! sudo -n true 2>/dev/null; then
        echo "Packages are missing; as root: apt-get install$missing" >&2
        exit 1
    fi
    as_root="sudo -n"
fi
echo "  APT  $missing"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
install() {
    # shellcheck disable=SC2086 # words are meant
    $as_root apt-get install -y --no-install-recommends $missing >"$log" 2>&1
}
# The lists may be old or absent: a second try has new ones.
install || { $as_root apt-get update >"$log" 2>&1 && install; } || {
    tail -n 15 "$log" >&2
    echo "apt-get could not install:$missing" >&2
    exit 1
}
