/* ThreadSanitizer beside live guest vectors: its runtime is called by way of tsan.S. Included before every C file of the folder (m=tsan). */
#pragma once

/* What gcc calls, without __tsan_: functions begin and end, and accesses, of which some can be told their place. */
#define SOFT_TSAN_BORDERS func_entry, func_exit
#define SOFT_TSAN_ACCESSES read1, read2, read4, read8, read16, write1, write2, write4, write8, write16
#define SOFT_TSAN_RANGES read_range, write_range
#define SOFT_TSAN_UNALIGNED_OF(n) unaligned_read##n, unaligned_write##n
#define SOFT_TSAN_UNALIGNED SOFT_TSAN_UNALIGNED_OF(2), SOFT_TSAN_UNALIGNED_OF(4), SOFT_TSAN_UNALIGNED_OF(8), SOFT_TSAN_UNALIGNED_OF(16)
#define SOFT_TSAN_ATOMICS_OF(n)                                                                                                            \
    atomic##n##_load, atomic##n##_store, atomic##n##_exchange, atomic##n##_fetch_add, atomic##n##_fetch_sub, atomic##n##_fetch_and,        \
        atomic##n##_fetch_or, atomic##n##_fetch_xor, atomic##n##_compare_exchange_strong, atomic##n##_compare_exchange_weak
#define SOFT_TSAN_ATOMICS                                                                                                                  \
    atomic_thread_fence, SOFT_TSAN_ATOMICS_OF(8), SOFT_TSAN_ATOMICS_OF(16), SOFT_TSAN_ATOMICS_OF(32), SOFT_TSAN_ATOMICS_OF(64)

#ifdef __SANITIZE_THREAD__
#define SOFT_TSAN_TEXT(...) #__VA_ARGS__
#define SOFT_TSAN_RENAME(...) __asm__(".irp name, " SOFT_TSAN_TEXT(__VA_ARGS__) "\n.set __tsan_\\name, soft_tsan_\\name\n.endr")
SOFT_TSAN_RENAME(SOFT_TSAN_BORDERS, SOFT_TSAN_ACCESSES, SOFT_TSAN_RANGES, SOFT_TSAN_UNALIGNED, SOFT_TSAN_ATOMICS);
#endif
