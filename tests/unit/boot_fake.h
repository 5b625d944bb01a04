/* What the tests of src/boot share. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include <errno.h>

#include "boot_kernels.h"

static inline struct cpu_state *fake_cpu(void)
{
    struct cpu_state *s = aligned_alloc(64, sizeof(*s));

    assert_non_null(s);
    memset(s, 0xa5, sizeof(*s));
    return s;
}

#define assert_says(e, part) assert_non_null(strstr((e).text, part))
