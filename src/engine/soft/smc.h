/* Per guest page: whether translated code was made from it, and which shadow entries map it for writing. */
#pragma once

#include "engine/soft/soft.h"

int smc_init(struct soft_vm *, struct err *);
void smc_fini(struct soft_vm *);

/* Marks the page as holding code: every writable shadow entry of every vCPU for it is revoked, and no new one is filled. */
void smc_protect(struct soft_vm *, gpa_t gpa);

/* True when translated code was made from this page. */
bool smc_has_code(const struct soft_vm *, gpa_t gpa);

/* Someone writes to [gpa, gpa+len): translated code of those pages is dropped (cache_drop_page) and the marks go. */
void smc_written(struct soft_vm *, gpa_t gpa, uint64_t len);
