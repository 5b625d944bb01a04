#!/bin/sh
# Makes the initrd that Debian's initramfs-tools makes for a kernel: build/guest/FLAVOUR/initrd.img.
#
#     tools/guest-initramfs-tools.sh [cloud|generic]...      (default: both)
#
# mkinitramfs knows only /usr/share/initramfs-tools, /lib/modules and /boot. It gets them in a mount namespace of its own, where
# overlays lay the unpacked packages over the host's /usr, /etc and /boot: nothing is installed, and the host stays as it is.
set -eu
cd "$(dirname "$0")/.."
packages_refreshed=
. tools/packages.sh

tools_root=build/guest/initramfs-tools

# What installing initramfs-tools would install or upgrade here is what is missing here.
missing_packages() {
    LC_ALL=C apt-get -s --no-install-recommends install initramfs-tools busybox-static 2>/dev/null | sed -n 's/^Inst \([^ ]*\) .*/\1/p'
}

unpack_tools() {
    [ ! -f "$tools_root/stamp" ] || return 0
    packages=$(missing_packages)
    [ -n "$packages" ] || [ -f /usr/sbin/mkinitramfs ] || { packages_refresh && packages=$(missing_packages); } || true
    [ -n "$packages" ] || [ -f /usr/sbin/mkinitramfs ] || die "apt knows no package initramfs-tools: let root run apt-get update"
    rm -rf "$tools_root"
    mkdir -p "$tools_root/usr" "$tools_root/etc"
    if [ -n "$packages" ]; then
        package_fetch $packages
        package_unpack "$tools_root" $packages
    fi
    touch "$tools_root/stamp"
}

make_initrd() { # FLAVOUR
    dir=build/guest/$1
    out=$dir/initrd.img
    tools/guest-kernel.sh "$1"
    if [ "$out" -nt "$dir/stamp" ] && [ "$out" -nt tools/guest-initramfs-tools.sh ]; then
        return
    fi
    unpack_tools
    say "INITRD $out"
    # A user who is not root becomes root in a user namespace; root needs none.
    [ "$(id -u)" -eq 0 ] && user= || user=-Ur
    unshare $user -m sh -eu -c '
        mount -t overlay -o "lowerdir=$2/usr:$1/root/usr:/usr" usr /usr
        mount -t overlay -o "lowerdir=$2/etc:/etc" etc /etc
        mount --bind "$1/root/boot" /boot
        mount -t tmpfs tmp /var/tmp
        [ -f "/lib/modules/$(cat "$1/version")/modules.dep" ]
        export TMPDIR=/var/tmp SOURCE_DATE_EPOCH=0
        exec mkinitramfs -o "$1/initrd.new" "$(cat "$1/version")"
    ' sh "$dir" "$tools_root" >"$dir/initrd.log" 2>&1 || {
        cat "$dir/initrd.log" >&2
        die "cannot make $out: it takes mount namespaces with overlays (for users who are not root, user namespaces too)"
    }
    mv "$dir/initrd.new" "$out"
}

[ $# -gt 0 ] || set -- cloud generic
for flavour; do
    make_initrd "$flavour"
done
