#!/bin/sh
# Unpacks Debian's kernel packages, not installed, as build/guest/FLAVOUR/{vmlinuz,vmlinux,config,modules,version}.
#
#     tools/guest-kernel.sh [cloud|generic]...      (default: cloud)
#
# Needs no root. What is there stays: remove build/guest/FLAVOUR to take a newer kernel.
set -eu
cd "$(dirname "$0")/.."
packages_refreshed=
. tools/packages.sh

kernel_package() { # the package with the kernel inside, which the one with the lasting name depends on
    package=$(package_dependency "$1" 'linux-image-[0-9].*')
    [ -n "$package" ] || { packages_refresh && package=$(package_dependency "$1" 'linux-image-[0-9].*'); } || true
    [ -n "$package" ] || die "apt knows no package $1: let root run apt-get update, with Debian's main archive in /etc/apt/sources.list"
    echo "$package"
}

make_kernel() { # FLAVOUR PACKAGE
    dir=build/guest/$1
    stamp=$dir/stamp
    if [ "$stamp" -nt tools/guest-kernel.sh ] && [ "$stamp" -nt tools/packages.sh ] && [ "$stamp" -nt tools/extract-vmlinux.py ]; then
        return
    fi
    need depmod kmod
    package=$(kernel_package "$2")
    [ -n "$package" ] || exit 1
    # What an interrupted run left is not trusted.
    rm -rf "$dir"
    mkdir -p "$dir"
    ls "$PACKAGES/${package}"_*.deb >/dev/null 2>&1 || package_fetch "$package"
    package_unpack "$dir/root" "$package"

    version=${package#linux-image-}
    [ -f "$dir/root/boot/vmlinuz-$version" ] || die "$package holds no /boot/vmlinuz-$version"
    ln -s "root/boot/vmlinuz-$version" "$dir/vmlinuz"
    ln -s "root/boot/config-$version" "$dir/config"
    ln -s "root/lib/modules/$version" "$dir/modules"
    echo "$version" >"$dir/version"
    # An unpacked package has no modules.dep: installing it would make one.
    say "DEPMOD $version"
    PATH=$PATH:/sbin:/usr/sbin depmod -b "$dir/root" "$version"
    say "ELF   $dir/vmlinux"
    python3 tools/extract-vmlinux.py "$dir/vmlinuz" "$dir/vmlinux"
    touch "$stamp"
}

[ $# -gt 0 ] || set -- cloud
for flavour; do
    case $flavour in
    cloud) make_kernel cloud linux-image-cloud-amd64 ;;
    generic) make_kernel generic linux-image-amd64 ;;
    *) die "there is no flavour $flavour: it is cloud or generic" ;;
    esac
done
