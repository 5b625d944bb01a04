/* The serial console at 0x3f8, polled, and a small printf on it. */
#include "cpu.h"
#include "print.h"

#define COM1 0x3f8
#define LSR_THRE 0x20

void console_init(void)
{
    outb(COM1 + 1, 0);    /* no interrupts */
    outb(COM1 + 3, 0x80); /* DLAB */
    outb(COM1 + 0, 1);    /* 115200 baud */
    outb(COM1 + 1, 0);
    outb(COM1 + 3, 3); /* 8n1 */
    outb(COM1 + 2, 7); /* FIFOs on and empty */
}

static void put(char c)
{
    while (!(inb(COM1 + 5) & LSR_THRE))
        pause_cpu();
    outb(COM1, (uint8_t)c);
}

static void putch(char c)
{
    if (c == '\n')
        put('\r');
    put(c);
}

void console_write(const char *s)
{
    while (*s)
        putch(*s++);
}

/* 64-bit numbers are printed by halves: the 32-bit guests have no __udivdi3. */
static void put_hex(uint64_t v, unsigned width, char pad)
{
    char buf[17];
    unsigned i = 16;

    buf[16] = 0;
    do {
        buf[--i] = "0123456789abcdef"[v & 15];
        v >>= 4;
    } while (v);
    while (16 - i < width && i)
        buf[--i] = pad;
    console_write(buf + i);
}

static void put_dec(word v, unsigned width, char pad)
{
    char buf[24];
    unsigned i = sizeof(buf) - 1;

    buf[i] = 0;
    do {
        buf[--i] = (char)('0' + v % 10);
        v /= 10;
    } while (v);
    while (sizeof(buf) - 1 - i < width && i)
        buf[--i] = pad;
    console_write(buf + i);
}

void vprint(const char *fmt, va_list ap)
{
    for (; *fmt; fmt++) {
        unsigned longs = 0, width = 0;
        char pad = ' ';

        if (*fmt != '%') {
            putch(*fmt);
            continue;
        }
        fmt++;
        if (*fmt == '0')
            pad = *fmt++;
        while (*fmt >= '0' && *fmt <= '9')
            width = width * 10 + (unsigned)(*fmt++ - '0');
        while (*fmt == 'l') {
            longs++;
            fmt++;
        }
        switch (*fmt) {
        case 'd': {
            long v = longs ? va_arg(ap, long) : va_arg(ap, int);
            if (v < 0)
                putch('-');
            put_dec(v < 0 ? 0 - (word)v : (word)v, width, pad);
            break;
        }
        case 'u': put_dec(longs ? va_arg(ap, unsigned long) : va_arg(ap, unsigned), width, pad); break;
        case 'x':
            put_hex(longs == 2   ? va_arg(ap, unsigned long long)
                    : longs == 1 ? va_arg(ap, unsigned long)
                                 : va_arg(ap, unsigned),
                    width, pad);
            break;
        case 'p':
            console_write("0x");
            put_hex((word)va_arg(ap, void *), 0, '0');
            break;
        case 's': {
            const char *s = va_arg(ap, const char *);
            console_write(s ? s : "(null)");
            break;
        }
        case 'c': putch((char)va_arg(ap, int)); break;
        default: putch(*fmt); break;
        }
    }
}

void print(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vprint(fmt, ap);
    va_end(ap);
}
