#!/bin/sh
# Makes build/guest/debian.img: a small Debian with systemd on a raw ext4 disk without partitions. With "bench" or "load" bench.img or load.img,
# which have more.
#
# Needs no root where user namespaces and /etc/subuid are there. root has no password on the console; over ssh it is let in by the key
# build/guest/debian/ssh_key. What is there stays: remove the image to take newer packages.
set -eu
cd "$(dirname "$0")/.."
packages_refreshed=
. tools/packages.sh

SIZE=3G # sparse: the host keeps what is written
PACKAGES_IN="systemd-sysv systemd-resolved udev dbus kmod iproute2 iputils-ping openssh-server e2fsprogs procps"

name=${1:-debian}
case $name in
debian) ;;
bench) PACKAGES_IN="$PACKAGES_IN gcc libc6-dev xz-utils python3-minimal sqlite3 7zip" ;;
load) PACKAGES_IN="$PACKAGES_IN gcc libc6-dev bpftrace luajit stress-ng" ;;
*) die "there is no image $name: it is debian, bench or load" ;;
esac
dir=build/guest/$name
out=$dir.img
key=build/guest/debian/ssh_key
kernel=build/guest/cloud
[ -f "$kernel/stamp" ] || tools/guest-kernel.sh cloud
if [ -f "$out" ] && [ -z "$(find guest/debian tools/debian-image.sh "$kernel/stamp" -newer "$out" | head -n 1)" ]; then
    exit 0
fi
need mmdebstrap mmdebstrap
need mke2fs e2fsprogs
need ssh-keygen openssh-client

# Ownership in the tree is root's own, or fakeroot remembers it.
as_root=
[ "$(id -u)" -eq 0 ] || { need fakeroot fakeroot && as_root=fakeroot; }

# The host's own Debian sources: a mirror that works here, and the kernel's packages are of the same release.
release=$(. /etc/os-release && echo "${VERSION_CODENAME-}")
debian_sources() {
    apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 'Origin: Debian' 'Component: main' |
        grep -E " $release(-updates|-security)? main\$" | sort -u
}
mkdir -p "$dir"
debian_sources >"$dir/sources.list" || { packages_refresh && debian_sources >"$dir/sources.list"; } ||
    die "apt knows no Debian archive: let root run apt-get update, with Debian's main archive in /etc/apt/sources.list"

# bootstrap OPTION...: mmdebstrap's own report of its steps is the progress that is shown.
bootstrap() {
    { mmdebstrap "$@" 2>&1 || echo "E: mmdebstrap ended with status $?"; } | tee "$dir/log" |
        sed -u -n 's/^I: \(running apt\|downloading\|extracting\|installing\|creating\)/  DEBIAN \1/p'
    ! grep -q '^E: ' "$dir/log"
}
rm -f "$dir/tree.tar"
bootstrap --variant=minbase --include="$(echo "$PACKAGES_IN" | tr ' ' ,)" \
    --aptopt='Acquire::Languages "none"' --dpkgopt=force-unsafe-io \
    --customize-hook='chroot "$1" passwd -q -d root' \
    --customize-hook='chroot "$1" systemctl -q enable systemd-networkd systemd-resolved' \
    --customize-hook='chroot "$1" systemctl -q disable systemd-networkd-wait-online e2scrub_reap apt-daily.timer apt-daily-upgrade.timer' \
    "$release" "$dir/tree.tar" "$dir/sources.list" || {
    tail -n 15 "$dir/log" >&2
    die "mmdebstrap could not make a Debian (all that it said: $dir/log). A user who is not root needs the package uidmap, and a range in /etc/subuid"
}

mkdir -p "${key%/*}"
[ -f "$key" ] || ssh-keygen -q -t ed25519 -N '' -C umbra -f "$key"

say "IMAGE $out"
rm -rf "$dir/tree" "$out.new"
mkdir "$dir/tree"
# assume_storage_prezeroed: a new file reads as zeros, which no one has to write.
PATH=$PATH:/sbin:/usr/sbin $as_root sh -eu -c '
    dir=$1 tree=$1/tree kernel=$2 image=$3 size=$4 key=$5
    # Left out here, since a filter within dpkg would cost a third of the time.
    tar -x --numeric-owner -f "$dir/tree.tar" -C "$tree" --exclude="./dev/*" --exclude="./usr/share/doc/*" --exclude="./usr/share/man/*" \
        --exclude="./usr/share/locale/*"
    cp -r --no-preserve=ownership guest/debian/. "$tree"
    ln -sf ../run/systemd/resolve/stub-resolv.conf "$tree/etc/resolv.conf"
    mkdir -p -m 700 "$tree/root/.ssh"
    cp "$key.pub" "$tree/root/.ssh/authorized_keys"
    # The modules of the kernel that make run boots; another kernel brings what it needs in its initrd.
    version=$(cat "$kernel/version")
    mkdir -p "$tree/usr/lib/modules"
    cp -r "$kernel/modules/." "$tree/usr/lib/modules/$version"
    truncate -s "$size" "$image"
    mke2fs -q -t ext4 -L debian -E root_owner=0:0,assume_storage_prezeroed=1 -d "$tree" "$image"
' sh "$dir" "$kernel" "$out.new" "$SIZE" "$key" || die "cannot make $out: is there room on the disk?"
rm -rf "$dir/tree" "$dir/tree.tar"
mv "$out.new" "$out"
