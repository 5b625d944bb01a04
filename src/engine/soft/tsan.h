/* ThreadSanitizer beside live guest vectors: its runtime is called by way of tsan.S. Included before every C file of the folder (m=tsan). */
#pragma once

#define SOFT_TSAN_NAMED_PC read1, read2, read4, read8, read16, write1, write2, write4, write8, write16
#define SOFT_TSAN_NAMED_PC_RANGE read_range, write_range
#define SOFT_TSAN_FUNC func_entry, func_exit
#define SOFT_TSAN_ATOMIC \
    atomic_thread_fence, atomic8_load, atomic8_store, atomic8_exchange, atomic8_fetch_or, atomic8_fetch_and, atomic8_compare_exchange_strong, \
        atomic32_load, atomic32_store, atomic32_exchange, atomic32_fetch_add, atomic32_fetch_sub, atomic32_fetch_or, atomic32_fetch_and, \
        atomic32_compare_exchange_strong, atomic32_compare_exchange_weak, atomic64_load, atomic64_store, atomic64_exchange, atomic64_fetch_add, \
        atomic64_fetch_sub, atomic64_fetch_or, atomic64_fetch_and, atomic64_compare_exchange_strong, atomic64_compare_exchange_weak

/* A call that is not on these lists would go to the runtime directly: the vectors gate finds it. */
#ifndef __ASSEMBLER__
#define SOFT_TSAN_TEXT(...) #__VA_ARGS__
#define SOFT_TSAN_RENAME(...) __asm__(".irp name, " SOFT_TSAN_TEXT(__VA_ARGS__) "\n.set __tsan_\\name, soft_tsan_\\name\n.endr")
#ifdef __SANITIZE_THREAD__
SOFT_TSAN_RENAME(SOFT_TSAN_NAMED_PC, SOFT_TSAN_NAMED_PC_RANGE, SOFT_TSAN_FUNC, SOFT_TSAN_ATOMIC);
#endif
#endif
