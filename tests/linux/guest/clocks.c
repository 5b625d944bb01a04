/* Clocks: none goes backwards, the vDSO agrees with the kernel, and sleeps and timers take at least their time. */
#include <signal.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

#define SECOND 1000000000ll

static long long now(clockid_t clock)
{
    struct timespec t;

    CHECK(clock_gettime(clock, &t) == 0);
    return t.tv_sec * SECOND + t.tv_nsec;
}

static long long now_by_kernel(clockid_t clock)
{
    struct {
        long sec, nsec;
    } t; /* the old call's, in programs of either width */

    CHECK(syscall(SYS_clock_gettime, clock, &t) == 0);
    return t.sec * SECOND + t.nsec;
}

static volatile int alarms;

static void on_alarm(int number)
{
    (void)number;
    alarms++;
}

int main(void)
{
    static const clockid_t clocks[] = {CLOCK_MONOTONIC, CLOCK_REALTIME,         CLOCK_MONOTONIC_RAW,
                                       CLOCK_BOOTTIME,  CLOCK_MONOTONIC_COARSE, CLOCK_PROCESS_CPUTIME_ID};

    for (unsigned k = 0; k < sizeof(clocks) / sizeof(clocks[0]); k++) {
        long long last = now(clocks[k]);
        for (int i = 0; i < 20000; i++) {
            long long t = now(clocks[k]);
            CHECK(t >= last);
            last = t;
        }
    }
    for (int i = 0; i < 2000; i++) {
        long long a = now(CLOCK_MONOTONIC), b = now_by_kernel(CLOCK_MONOTONIC), c = now(CLOCK_MONOTONIC);
        CHECK(a <= b && b <= c);
    }
    struct timeval tv;
    long long before = now(CLOCK_REALTIME);
    CHECK(gettimeofday(&tv, NULL) == 0);
    long long middle = tv.tv_sec * SECOND + tv.tv_usec * 1000ll;
    CHECK(middle + 1000 >= before && middle <= now(CLOCK_REALTIME));

    for (long ns = 1000; ns < 100000000; ns *= 10) {
        struct timespec wait = {.tv_nsec = ns};
        long long start = now(CLOCK_MONOTONIC);
        CHECK(nanosleep(&wait, NULL) == 0);
        CHECK(now(CLOCK_MONOTONIC) - start >= ns);
    }
    struct itimerval timer = {.it_interval.tv_usec = 5000, .it_value.tv_usec = 5000};
    CHECK(signal(SIGALRM, on_alarm) != SIG_ERR);
    long long start = now(CLOCK_MONOTONIC);
    CHECK(setitimer(ITIMER_REAL, &timer, NULL) == 0);
    while (alarms < 20)
        pause();
    CHECK(now(CLOCK_MONOTONIC) - start >= 20 * 5000000ll - 5000000);
    printf("clocks ok\n");
    return 0;
}
