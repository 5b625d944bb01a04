# Debian's packages as files: sourced by the tools that unpack packages without installing them.

PACKAGES=build/guest/packages # where the downloaded files stay

say() { echo "  $*"; }
die() { echo "${0##*/}: $*" >&2; exit 1; }

# Once a run, and only when something was not found: the lists may be missing (a fresh container) or older than the archive.
packages_refresh() {
    [ -z "$packages_refreshed" ] || return 1
    packages_refreshed=1
    [ "$(id -u)" -eq 0 ] || return 1
    say "APT   update"
    apt-get -qq update
}

# package_dependency NAME PATTERN: the first package whose name matches, among those that NAME depends on.
package_dependency() {
    LC_ALL=C apt-cache depends "$1" 2>/dev/null | sed -n "s/^ *Depends: \($2\)\$/\1/p" | head -n 1
}

package_download() { # into the current folder
    apt-get -qq -o APT::Sandbox::User="$(id -un)" download "$@" 2>download.log
}

# package_fetch NAME...: into $PACKAGES. The file of a package is $PACKAGES/NAME_*.deb.
package_fetch() {
    say "FETCH $*"
    command -v apt-get >/dev/null || die "apt-get is missing: the guest is made from Debian's packages, on Debian or a system made from it"
    mkdir -p "$PACKAGES"
    (
        cd "$PACKAGES" || exit 1
        package_download "$@" || { packages_refresh && package_download "$@"; } || { cat download.log >&2; exit 1; }
    ) || die "cannot download $*: look at the network and at /etc/apt/sources.list, and let root run apt-get update"
}

# package_unpack DIR NAME...: fetched packages into DIR, where /bin, /lib and /sbin are links into /usr, as on a running system.
package_unpack() {
    unpack_dir=$1
    shift
    mkdir -p "$unpack_dir"
    for d in bin lib lib64 sbin; do
        [ -L "$unpack_dir/$d" ] || { mkdir -p "$unpack_dir/usr/$d" && ln -s "usr/$d" "$unpack_dir/$d"; } || return 1
    done
    for package; do
        # The newest of several versions that earlier runs left.
        deb=$(ls -t "$PACKAGES/${package}"_*.deb 2>/dev/null | head -n 1)
        [ -n "$deb" ] || die "there is no $PACKAGES/${package}_*.deb to unpack"
        say "DPKG  $deb"
        # Like dpkg -x, which would put folders in the links' place.
        dpkg --fsys-tarfile "$deb" >"$unpack_dir/data.tar" && tar -x --keep-directory-symlink -f "$unpack_dir/data.tar" -C "$unpack_dir" ||
            die "cannot unpack $deb: remove it and run this again"
        rm -f "$unpack_dir/data.tar"
    done
}

need() { # need COMMAND PACKAGE
    PATH=$PATH:/sbin:/usr/sbin command -v "$1" >/dev/null || die "$1 is missing: install Debian's package $2"
}
