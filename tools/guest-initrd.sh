#!/bin/sh
# Makes the default guest's initramfs, build/guest/initrd.cpio.gz: busybox, guest/linux, and modules of the cloud kernel.
#
# Needs no root: the archive says that everything in it is root's, and the guest's kernel makes its device nodes.
set -eu
cd "$(dirname "$0")/.."
packages_refreshed=
. tools/packages.sh

kernel=build/guest/cloud
out=build/guest/initrd.cpio.gz
root=build/guest/initrd.root
[ -f "$kernel/stamp" ] || tools/guest-kernel.sh cloud
if [ -f "$out" ] && [ -z "$(find guest/linux tools/guest-initrd.sh "$kernel/stamp" -newer "$out" | head -n 1)" ]; then
    exit 0
fi
need depmod kmod
need cpio cpio
version=$(cat "$kernel/version")

busybox=build/guest/busybox/usr/bin/busybox
if [ ! -x "$busybox" ]; then
    ls "$PACKAGES"/busybox-static_*.deb >/dev/null 2>&1 || package_fetch busybox-static
    package_unpack build/guest/busybox busybox-static
fi

say "TREE  $root"
rm -rf "$root"
mkdir -p "$root/bin" "$root/usr" "$root/dev" "$root/proc" "$root/sys" "$root/tmp" "$root/run" "$root/root" "$root/mnt"
for d in sbin usr/bin usr/sbin; do
    case $d in usr/*) ln -s ../bin "$root/$d" ;; *) ln -s bin "$root/$d" ;; esac
done
cp "$busybox" "$root/bin/busybox"
"$busybox" --list | while read -r applet; do
    [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
done
cp -r --remove-destination guest/linux/. "$root"
find "$root" -type d -exec chmod 755 {} +
chmod 1777 "$root/tmp"

# Every module with virtio in its name, those of the power button, and the modules that these need: "A: B C" in modules.dep.
modules=$root/lib/modules/$version
mkdir -p "$modules"
awk -F: '$1 ~ /virtio|\/acpi\/button\.ko|\/input\/evdev\.ko/ { print $1 $2 }' "$kernel/modules/modules.dep" | tr ' ' '\n' | sed '/^$/d' | sort -u | while read -r module; do
    mkdir -p "$modules/$(dirname "$module")"
    cp "$kernel/modules/$module" "$modules/$module"
done
for list in modules.order modules.builtin modules.builtin.modinfo; do
    cp "$kernel/modules/$list" "$modules/"
done
PATH=$PATH:/sbin:/usr/sbin depmod -b "$root" "$version"
# busybox reads the text, not kmod's binary indexes.
rm -f "$modules"/*.bin "$modules"/modules.builtin* "$modules"/modules.order "$modules"/modules.devname "$modules"/modules.softdep

say "CPIO  $out"
(cd "$root" && find . -mindepth 1 | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 --reproducible) >"$out.cpio"
gzip -9 -n <"$out.cpio" >"$out.new"
rm -f "$out.cpio"
mv "$out.new" "$out"
