#!/bin/sh
# Runs tiny guests on KVM, each of which has to pass, or to end as it is meant to: kvm_guests.sh NAME...
. /lab/lib.sh
for name; do
    # The CPU is QEMU's TCG, by whose ways the guests' tests allow for.
    umbra run --engine kvm --kernel "/guests/$name.elf" --append "mode=kvm cpu=tcg" --debug-exit --no-reboot >"/out/$name.log" 2>&1 </dev/null
    status=$?
    echo "$name: status $status: $(grep -E 'passed|triple-faulted' "/out/$name.log" | tail -n 1)"
done
